//! The shape check used at every module edge.

use crate::error::{Error, Result};
use tch::Tensor;

/// Checks the shape of `tensor`; `expected` holds −1 where any size will do.
///
/// # Errors
/// [`Error::Shape`] naming the tensor, the expected and the found shape.
pub fn check(name: &str, tensor: &Tensor, expected: &[i64]) -> Result<()> {
    let found = tensor.size();
    let fits = found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, expected)| *expected == -1 || found == expected);
    if fits {
        return Ok(());
    }
    let expected: Vec<String> = expected
        .iter()
        .map(|size| if *size == -1 { "any".to_owned() } else { size.to_string() })
        .collect();
    Err(Error::Shape(format!(
        "`{name}` must have shape [{}], found {found:?}",
        expected.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn names_the_tensor_and_both_shapes() {
        let tensor = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        assert!(check("rows", &tensor, &[-1, 3]).is_ok());
        let message = check("rows", &tensor, &[-1, 4]).unwrap_err().to_string();
        assert_eq!(message, "`rows` must have shape [any, 4], found [2, 3]");
        assert!(check("rows", &tensor, &[2]).is_err());
    }
}
