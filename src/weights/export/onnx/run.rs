//! A small interpreter of the graphs that are written here: it knows nothing of the network they were made of.

use super::message::{Attribute, Initializer, Model, Node};
use crate::error::{Error, Result};
use prost::Message;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use tch::{Kind, Tensor, no_grad};

/// Runs the graph in a file on images and gives its outputs by name; numbers outside of it lie in `data`.
///
/// # Errors
/// [`Error::Weights`] if the file is damaged or has an operator or attribute that is not known here; [`Error::Io`].
pub(super) fn run(
    graph: &Path,
    data: Option<&Path>,
    images: &Tensor,
) -> Result<BTreeMap<String, Tensor>> {
    let bytes = fs::read(graph).map_err(Error::io("read", graph))?;
    let refused = |why: String| Error::Weights(format!("graph `{}`: {why}", graph.display()));
    let model = Model::decode(bytes.as_slice()).map_err(|error| refused(error.to_string()))?;
    drop(bytes);
    let opset = model.opset_import.iter().find(|opset| opset.domain.is_empty());
    if opset.is_none_or(|opset| opset.version != super::OPSET) {
        return Err(refused(format!("its opset is not {}", super::OPSET)));
    }
    let graph = model.graph.ok_or_else(|| refused("it is empty".into()))?;
    let mut values = BTreeMap::from([("image".to_owned(), images.shallow_clone())]);
    for initializer in graph.initializer {
        let name = initializer.name.clone();
        let tensor = read(initializer, data).map_err(|why| refused(format!("`{name}`: {why}")))?;
        values.insert(name, tensor);
    }
    no_grad(|| {
        for node in &graph.node {
            let outputs = apply(node, &values).map_err(|why| {
                refused(format!("node `{}` ({}): {why}", node.name, node.op_type))
            })?;
            if outputs.len() != node.output.len() {
                return Err(refused(format!(
                    "node `{}` gives {} values",
                    node.name,
                    outputs.len()
                )));
            }
            values.extend(node.output.iter().cloned().zip(outputs));
        }
        let mut found = BTreeMap::new();
        for output in graph.output {
            let value = values.remove(&output.name);
            let value = value.ok_or_else(|| refused(format!("no node gives `{}`", output.name)))?;
            found.insert(output.name, value);
        }
        Ok(found)
    })
}

fn read(initializer: Initializer, data: Option<&Path>) -> Result<Tensor, String> {
    let kind = match initializer.data_type {
        1 => Kind::Float,
        7 => Kind::Int64,
        other => return Err(format!("type {other}")),
    };
    let bytes = match (initializer.raw_data, initializer.data_location) {
        (Some(bytes), None) => bytes,
        (None, Some(1)) => {
            let number = |key: &str| {
                let pair = initializer.external_data.iter().find(|pair| pair.key == key);
                pair.and_then(|pair| pair.value.parse::<u64>().ok())
                    .ok_or("it does not say where it lies")
            };
            let path = data.ok_or("it lies in another file")?;
            let mut bytes = vec![0; number("length")? as usize];
            let file = File::open(path).map_err(|error| error.to_string())?;
            file.read_exact_at(&mut bytes, number("offset")?).map_err(|error| error.to_string())?;
            bytes
        }
        _ => return Err("it has no numbers".into()),
    };
    Tensor::f_from_data_size(&bytes, &initializer.dims, kind).map_err(|error| error.to_string())
}

/// Attributes of a node by name; what is asked for is taken out.
struct Attributes<'a>(BTreeMap<&'a str, &'a Attribute>);

impl Attributes<'_> {
    fn ints<const N: usize>(&mut self, name: &str, default: [i64; N]) -> Result<[i64; N], String> {
        let Some(attribute) = self.0.remove(name) else { return Ok(default) };
        attribute.ints.as_slice().try_into().map_err(|_| format!("`{name}` of another length"))
    }

    fn int(&mut self, name: &str, default: i64) -> i64 {
        self.0.remove(name).and_then(|attribute| attribute.i).unwrap_or(default)
    }

    fn text(&mut self, name: &str) -> Option<String> {
        let text = self.0.remove(name)?.s.clone()?;
        String::from_utf8(text).ok()
    }
}

/// What a node is given: its values and its attributes, every one of which must be asked for.
fn apply(node: &Node, values: &BTreeMap<String, Tensor>) -> Result<Vec<Tensor>, String> {
    let mut inputs = Vec::new();
    for name in &node.input {
        inputs.push(values.get(name).ok_or_else(|| format!("there is no value `{name}` yet"))?);
    }
    let mut attributes = Attributes(
        node.attribute.iter().map(|attribute| (attribute.name.as_str(), attribute)).collect(),
    );
    let result = match node.op_type.as_str() {
        "Conv" | "BatchNormalization" | "MaxPool" | "AveragePool" | "GlobalAveragePool" => {
            vec![on_maps(&node.op_type, &inputs, &mut attributes)?]
        }
        "Split" => split(&inputs, node.output.len(), &mut attributes)?,
        _ => vec![on_any(&node.op_type, &inputs, &mut attributes)?],
    };
    match attributes.0.keys().next() {
        Some(name) => Err(format!("attribute `{name}` is not known")),
        None => Ok(result),
    }
}

fn unknown(inputs: &[&Tensor]) -> String {
    format!("not known with {} inputs", inputs.len())
}

/// Operators on maps `[N, C, h, w]` (batch norm on rows too).
fn on_maps(operator: &str, inputs: &[&Tensor], a: &mut Attributes<'_>) -> Result<Tensor, String> {
    Ok(match (operator, inputs) {
        ("Conv", [x, weight, bias @ ..]) => {
            let strides = a.ints("strides", [1, 1])?;
            let [top, left, bottom, right] = a.ints("pads", [0; 4])?;
            let (dilations, groups) = (a.ints("dilations", [1, 1])?, a.int("group", 1));
            if a.ints("kernel_shape", [0, 0])? != weight.size()[2..] {
                return Err("`kernel_shape` is not that of the weights".into());
            }
            let x = x.constant_pad_nd([left, right, top, bottom]);
            let bias = bias.first().copied();
            x.f_conv2d(weight, bias, strides, [0, 0], dilations, groups).map_err(|e| line(&e))?
        }
        ("BatchNormalization", [x, scale, shift, mean, variance]) => {
            let epsilon = a.0.remove("epsilon").and_then(|epsilon| epsilon.f).unwrap_or(1e-5);
            let mut shape = vec![1; x.dim()];
            shape[1] = -1;
            let along = |tensor: &Tensor| tensor.view(shape.as_slice());
            let root = (along(variance) + f64::from(epsilon)).sqrt();
            (*x - along(mean)) / root * along(scale) + along(shift)
        }
        ("MaxPool", [x]) => {
            let kernel = a.ints("kernel_shape", [0, 0])?;
            let strides = a.ints("strides", [1, 1])?;
            let pads = match a.text("auto_pad").as_deref() {
                Some("SAME_UPPER") => same_upper(x, kernel, strides),
                Some(other) => return Err(format!("auto_pad {other}")),
                None => a.ints("pads", [0; 4])?,
            };
            padded(x, pads, f64::NEG_INFINITY).max_pool2d(kernel, strides, [0, 0], [1, 1], false)
        }
        ("AveragePool", [x]) => {
            let kernel = a.ints("kernel_shape", [0, 0])?;
            let strides = a.ints("strides", [1, 1])?;
            let pads = a.ints("pads", [0; 4])?;
            let sum = |x: &Tensor| {
                padded(x, pads, 0.0).avg_pool2d(kernel, strides, [0, 0], false, true, 1)
            };
            let area = (kernel[0] * kernel[1]) as f64;
            match a.int("count_include_pad", 0) {
                0 => sum(x) / sum(&x.ones_like()),
                _ => sum(x) / area,
            }
        }
        ("GlobalAveragePool", [x]) => x.mean_dim([2, 3].as_slice(), true, None),
        (_, inputs) => return Err(unknown(inputs)),
    })
}

/// All other operators of one result.
fn on_any(operator: &str, inputs: &[&Tensor], a: &mut Attributes<'_>) -> Result<Tensor, String> {
    let whole = |tensor: &Tensor| Vec::<i64>::try_from(tensor).map_err(|error| error.to_string());
    Ok(match (operator, inputs) {
        ("Relu", [x]) => x.relu(),
        ("Flatten", [x]) if a.int("axis", 1) == 1 => x.flatten(1, -1),
        ("Add", [x, y]) => *x + *y,
        ("Mul", [x, y]) => *x * *y,
        ("Div", [x, y]) => *x / *y,
        ("Max", [x, y]) => x.maximum(y),
        ("Identity", [x]) => x.shallow_clone(),
        ("Softmax", [x]) => x.softmax(a.int("axis", -1), None),
        ("Squeeze", [x, axes]) => {
            whole(axes)?.iter().fold(x.shallow_clone(), |x, axis| x.squeeze_dim(*axis))
        }
        ("Reshape", [x, shape]) => {
            let mut shape = whole(shape)?;
            for (side, old) in shape.iter_mut().zip(x.size()) {
                if *side == 0 {
                    *side = old;
                }
            }
            x.f_reshape(shape).map_err(|e| line(&e))?
        }
        ("ReduceL2", [x]) => {
            let axes = a.ints("axes", [-1])?;
            let keep = a.int("keepdims", 1) == 1;
            x.square().sum_dim_intlist(axes.as_slice(), keep, None).sqrt()
        }
        ("Gemm", [x, weight, bias @ ..]) => {
            let weight = if a.int("transB", 0) == 1 { weight.tr() } else { weight.shallow_clone() };
            let product = x.f_matmul(&weight).map_err(|e| line(&e))?;
            match bias.first() {
                Some(bias) => product + *bias,
                None => product,
            }
        }
        (_, inputs) => return Err(unknown(inputs)),
    })
}

/// Equal parts.
fn split(inputs: &[&Tensor], parts: usize, a: &mut Attributes<'_>) -> Result<Vec<Tensor>, String> {
    let [x] = inputs else { return Err(unknown(inputs)) };
    let (axis, parts) = (a.int("axis", 0), parts as i64);
    let side = x.size()[axis as usize];
    if parts == 0 || side % parts != 0 {
        return Err(format!("{side} do not fall into {parts} parts"));
    }
    let part = side / parts;
    Ok((0..parts).map(|index| x.narrow(axis, index * part, part)).collect())
}

fn line(error: &tch::TchError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Pads by ONNX's order: top, left, bottom, right.
fn padded(x: &Tensor, [top, left, bottom, right]: [i64; 4], value: f64) -> Tensor {
    x.pad([left, right, top, bottom], "constant", value)
}

/// As much padding as gives ⌈side / stride⌉ results, the odd pixel at the end.
fn same_upper(x: &Tensor, kernel: [i64; 2], strides: [i64; 2]) -> [i64; 4] {
    let mut pads = [0; 4];
    for (axis, (kernel, stride)) in kernel.into_iter().zip(strides).enumerate() {
        let side = x.size()[axis + 2];
        let results = (side + stride - 1) / stride;
        let all = ((results - 1) * stride + kernel - side).max(0);
        (pads[axis], pads[axis + 2]) = (all / 2, all - all / 2);
    }
    pads
}
