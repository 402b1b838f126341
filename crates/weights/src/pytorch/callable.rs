//! The short list of Python names that a pickled state dict may mention, and what each becomes here.
//!
//! Nothing on the list is run: a call of one is pattern-matched on its arguments and turned into data. A name that is
//! not on the list ends the reading with [`Error::RefusedCode`](crate::Error::RefusedCode).

use crate::DType;

/// A Python class or function on the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Callable {
    /// `collections.OrderedDict`: a dict.
    OrderedDict,
    /// `set`: its argument.
    Set,
    /// `torch.Size`: its argument, a tuple.
    Size,
    /// `torch.device`: of no consequence here.
    Device,
    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])`: a tensor.
    RebuildTensor,
    /// `_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])`: a tensor.
    RebuildTensorV3,
    /// `_rebuild_parameter(tensor, requires_grad, hooks[, state])`: its first argument.
    RebuildParameter,
    /// A storage class: the type of a storage's elements. `None` for one that leaves it to the tensor.
    Storage(Option<DType>),
    /// `torch.float32` and the like.
    ElementType(DType),
}

/// What `module.name` is, if it is on the list.
pub(super) fn allowed(module: &str, name: &str) -> Option<Callable> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Callable::OrderedDict,
        ("builtins" | "__builtin__", "set") => Callable::Set,
        ("torch", "Size") => Callable::Size,
        ("torch", "device") => Callable::Device,
        ("torch._utils", "_rebuild_tensor_v2") => Callable::RebuildTensor,
        ("torch._utils", "_rebuild_tensor_v3") => Callable::RebuildTensorV3,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Callable::RebuildParameter,
        ("torch.storage", "UntypedStorage") => Callable::Storage(None),
        ("torch" | "torch.cuda", name) => match name.strip_suffix("Storage") {
            Some("Untyped") => Callable::Storage(None),
            Some(kind) => Callable::Storage(Some(storage_type(kind)?)),
            None => Callable::ElementType(element_type(name)?),
        },
        _ => return None,
    })
}

fn storage_type(kind: &str) -> Option<DType> {
    Some(match kind {
        "Double" => DType::F64,
        "Float" => DType::F32,
        "Half" => DType::F16,
        "BFloat16" => DType::BF16,
        "Long" => DType::I64,
        "Int" => DType::I32,
        "Short" => DType::I16,
        "Char" => DType::I8,
        "Byte" => DType::U8,
        "Bool" => DType::Bool,
        "ComplexFloat" => DType::Other("complex64"),
        "ComplexDouble" => DType::Other("complex128"),
        "QInt8" => DType::Other("qint8"),
        "QUInt8" => DType::Other("quint8"),
        "QInt32" => DType::Other("qint32"),
        _ => return None,
    })
}

fn element_type(name: &str) -> Option<DType> {
    Some(match name {
        "float64" | "double" => DType::F64,
        "float32" | "float" => DType::F32,
        "float16" | "half" => DType::F16,
        "bfloat16" => DType::BF16,
        "int64" | "long" => DType::I64,
        "int32" | "int" => DType::I32,
        "int16" | "short" => DType::I16,
        "int8" => DType::I8,
        "uint64" => DType::U64,
        "uint32" => DType::U32,
        "uint16" => DType::U16,
        "uint8" => DType::U8,
        "bool" => DType::Bool,
        "complex64" | "cfloat" => DType::Other("complex64"),
        "complex128" | "cdouble" => DType::Other("complex128"),
        "float8_e4m3fn" => DType::Other("float8_e4m3fn"),
        "float8_e4m3fnuz" => DType::Other("float8_e4m3fnuz"),
        "float8_e5m2" => DType::Other("float8_e5m2"),
        "float8_e5m2fnuz" => DType::Other("float8_e5m2fnuz"),
        "float8_e8m0fnu" => DType::Other("float8_e8m0fnu"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_builds_tensors_is_allowed() {
        assert_eq!(allowed("torch", "HalfStorage"), Some(Callable::Storage(Some(DType::F16))));
        assert_eq!(allowed("torch", "bfloat16"), Some(Callable::ElementType(DType::BF16)));
        let refused = [
            ("os", "system"),
            ("posix", "system"),
            ("builtins", "eval"),
            ("builtins", "getattr"),
            ("torch", "load"),
            ("torch", "compile"),
            ("torch.hub", "load"),
            ("torch", "Storage"),
            ("torch", "serialization.os.system"),
            ("collections", "namedtuple"),
        ];
        for (module, name) in refused {
            assert_eq!(allowed(module, name), None, "{module}.{name}");
        }
    }
}
