//! PyTorch's files: what their pickle says about tensors, whose numbers lie elsewhere in the file.

mod legacy;
mod zip;

pub(super) use legacy::{begins, read as read_legacy};
pub(super) use zip::read as read_zip;

use super::Number;

/// Longest pickle, in bytes.
const LONGEST_PICKLE: u64 = 256 << 20;

/// The numbers of a storage by the name of its type: `FloatStorage`, or a dtype's `float32`.
pub(super) fn number(name: &str) -> Option<Number> {
    Some(match name {
        "DoubleStorage" | "float64" => Number::F64,
        "FloatStorage" | "float32" => Number::F32,
        "HalfStorage" | "float16" => Number::F16,
        "BFloat16Storage" | "bfloat16" => Number::Bf16,
        "LongStorage" | "int64" => Number::I64,
        "IntStorage" | "int32" => Number::I32,
        "ShortStorage" | "int16" => Number::I16,
        "CharStorage" | "int8" => Number::I8,
        "ByteStorage" | "uint8" => Number::U8,
        "BoolStorage" | "bool" => Number::Bool,
        "uint16" => Number::U16,
        "uint32" => Number::U32,
        "uint64" => Number::U64,
        "float8_e4m3fn" => Number::F8E4M3,
        "float8_e5m2" => Number::F8E5M2,
        "ComplexFloatStorage" | "complex64" => Number::C64,
        "ComplexDoubleStorage" | "complex128" => Number::C128,
        _ => return None,
    })
}
