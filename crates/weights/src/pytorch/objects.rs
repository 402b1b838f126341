//! The objects of a pickle: values, and what the allowed names make of their arguments.
//!
//! A call is never made; its arguments are matched against what `torch.save` writes and kept as data.

use super::callable::{Callable, allowed};
use super::pickle::{Failure, Machine, Ref, Step, bad};
use crate::DType;
use crate::error::printable;

/// The most tensors: each copies its shape and strides, which many tensors may share in the pickle.
const MAX_TENSORS: usize = 1 << 18;
/// The most dimensions of a tensor.
const MAX_RANK: usize = 32;

/// A Python object, as far as it matters here.
#[derive(Debug)]
pub(super) enum Value<'a> {
    /// None, a float, bytes, an integer beyond 64 bits, ...: may be there, is not looked into.
    Opaque,
    Bool(bool),
    Integer(i64),
    Text(&'a str),
    /// A tuple, list or set.
    Sequence(Vec<Ref>),
    Dict(Vec<(Ref, Ref)>),
    Callable(Callable),
    Storage(StorageRef<'a>),
    Tensor(Box<Tensor<'a>>),
}

/// A storage as the pickle describes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct StorageRef<'a> {
    /// The name of its entry in `data/`.
    pub(super) key: &'a str,
    /// The type of its elements; `None` for an untyped one, whose elements are bytes.
    pub(super) dtype: Option<DType>,
    /// The number of its elements.
    pub(super) elements: u64,
}

/// A tensor as the pickle describes it; nothing is checked but that `shape` and `strides` are equally long.
#[derive(Debug)]
pub(super) struct Tensor<'a> {
    pub(super) storage: StorageRef<'a>,
    pub(super) dtype: DType,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

impl<'a> Machine<'a> {
    pub(super) fn global(&mut self, module: &str, name: &str) -> Step {
        match allowed(module, name) {
            Some(callable) => self.push(Value::Callable(callable)),
            None => Err(Failure::Refused(full_name(module, name))),
        }
    }

    pub(super) fn call(&mut self, callable: Ref, arguments: Ref) -> Step {
        let (Value::Callable(callable), Value::Sequence(arguments)) = (self.value(callable), self.value(arguments))
        else {
            return bad("a call of something that cannot be called");
        };
        let first = arguments.first().copied();
        match (callable, first) {
            (Callable::OrderedDict, None) => self.push(Value::Dict(Vec::new())),
            (Callable::Size | Callable::Set | Callable::RebuildParameter, Some(first)) => self.push_ref(first),
            (Callable::Size | Callable::Set, None) => self.push(Value::Sequence(Vec::new())),
            (Callable::Device, _) => self.push(Value::Opaque),
            (Callable::RebuildTensor, _) => {
                let tensor = self.tensor(arguments, None)?;
                self.push_tensor(tensor)
            }
            (Callable::RebuildTensorV3, _) => {
                let Some(Value::Callable(Callable::ElementType(dtype))) = arguments.get(6).map(|&at| self.value(at))
                else {
                    return bad("_rebuild_tensor_v3 without an element type");
                };
                let tensor = self.tensor(arguments, Some(*dtype))?;
                self.push_tensor(tensor)
            }
            (callable, _) => bad(format!("unexpected arguments of {callable:?}")),
        }
    }

    /// The tensor that `_rebuild_tensor_v2(storage, offset, size, stride, ...)` describes.
    fn tensor(&self, arguments: &[Ref], dtype: Option<DType>) -> Step<Tensor<'a>> {
        let &[storage, offset, shape, strides, ..] = arguments else {
            return bad("a tensor without storage, offset, size and stride");
        };
        let &Value::Storage(storage) = self.value(storage) else {
            return bad("a tensor of something other than a storage");
        };
        let Some(dtype) = dtype.or(storage.dtype) else {
            return bad("a tensor of an untyped storage without an element type");
        };
        let offset = self.count(offset)?;
        let (shape, strides) = (self.counts(shape)?, self.counts(strides)?);
        if shape.len() != strides.len() {
            return bad(format!("a tensor of {} dimensions with {} strides", shape.len(), strides.len()));
        }
        Ok(Tensor { storage, dtype, offset, shape, strides })
    }

    fn push_tensor(&mut self, tensor: Tensor<'a>) -> Step {
        if self.tensors >= MAX_TENSORS {
            return Err(Failure::TooLarge("pickle (tensors)", self.tensors as u64 + 1, MAX_TENSORS as u64));
        }
        self.tensors += 1;
        self.push(Value::Tensor(Box::new(tensor)))
    }

    fn count(&self, value: Ref) -> Step<usize> {
        match self.value(value) {
            Value::Integer(count) => match usize::try_from(*count) {
                Ok(count) => Ok(count),
                Err(_) => bad(format!("a size, stride or offset of {count}")),
            },
            _ => bad("a size, stride or offset that is no integer of 64 bits"),
        }
    }

    fn counts(&self, values: Ref) -> Step<Vec<usize>> {
        match self.value(values) {
            Value::Sequence(values) if values.len() > MAX_RANK => {
                Err(Failure::TooLarge("tensor rank", values.len() as u64, MAX_RANK as u64))
            }
            Value::Sequence(values) => values.iter().map(|&value| self.count(value)).collect(),
            _ => bad("a size or stride that is no tuple"),
        }
    }

    /// A persistent id: `("storage", class, key, location, elements)`, before version 1.6 with a sixth part: None, or what
    /// the storage is a part of.
    pub(super) fn persistent(&mut self, id: Ref) -> Step {
        let Value::Sequence(id) = self.value(id) else {
            return bad("a persistent id that is no tuple");
        };
        let (&[kind, class, key, _, elements] | &[kind, class, key, _, elements, _]) = &id[..] else {
            return bad(format!("a persistent id of {} parts, wanted 5", id.len()));
        };
        if id.get(5).is_some_and(|&whole| !matches!(self.value(whole), Value::Opaque)) {
            return bad("a storage that is a part of another");
        }
        let (Value::Text("storage"), Value::Callable(Callable::Storage(dtype)), Value::Text(key)) =
            (self.value(kind), self.value(class), self.value(key))
        else {
            return bad("a persistent id that is no storage");
        };
        let elements = self.count(elements)? as u64;
        self.push(Value::Storage(StorageRef { key, dtype: *dtype, elements }))
    }
}

/// `module.name` for a message, escaped and clipped.
pub(super) fn full_name(module: &str, name: &str) -> String {
    printable(&format!("{module}.{name}"), 200)
}
