//! A pickle machine that builds data and nothing else.
//!
//! A pickle is a program for a stack machine: it pushes constants, gathers them into tuples, lists and dicts, stores
//! values in a numbered memo and gets them back, and calls Python callables by name. This machine knows the opcodes of
//! protocols 2 to 5 that state dicts use. A name that is not in [`callable`](super::callable) is an error as soon as it
//! is mentioned, and a call of one that is becomes a [`Value`] in [`objects`](super::objects). Opcodes: CPython's
//! `Lib/pickletools.py`.
//!
//! Values live in one arena and refer to each other by number, so a value that contains itself or is nested a million
//! deep is as harmless as any: nothing here recurses. Each opcode adds at most one value, and every count (values,
//! marks, memo numbers) has a limit, so memory is bounded by the pickle's own size.

use std::collections::HashMap;

use super::objects::{StorageRef, Value, full_name};
use crate::Error;

/// The most values, and the highest memo number: about 100,000 tensors.
const MAX_VALUES: usize = 1 << 21;
/// The most marks that are open at once. Real state dicts nest five deep.
const MAX_MARKS: usize = 1000;

/// The number of a value in the arena.
pub(super) type Ref = u32;

/// The machine, borrowing text from the pickle.
pub(super) struct Machine<'a> {
    pickle: &'a [u8],
    position: usize,
    /// Where the opcode being run starts.
    opcode_at: usize,
    values: Vec<Value<'a>>,
    /// How many of the values are tensors.
    pub(super) tensors: usize,
    stack: Vec<Ref>,
    /// Heights of the stack where a MARK was set.
    marks: Vec<usize>,
    memo: HashMap<u32, Ref>,
    result: Ref,
}

/// Why an opcode failed; [`Machine::run`] adds the file and the place.
pub(super) enum Failure {
    Bad(String),
    Refused(String),
    TooLarge(&'static str, u64, u64),
}

pub(super) type Step<T = ()> = Result<T, Failure>;

pub(super) fn bad<T>(reason: impl Into<String>) -> Step<T> {
    Err(Failure::Bad(reason.into()))
}

impl<'a> Machine<'a> {
    /// Runs the whole pickle.
    pub(super) fn run(file: &str, pickle: &'a [u8]) -> Result<Self, Error> {
        Self::run_from(file, pickle, 0)
    }

    /// Runs the pickle that starts at this byte; others may come before and after.
    pub(super) fn run_from(file: &str, pickle: &'a [u8], start: usize) -> Result<Self, Error> {
        let mut machine = Machine {
            pickle,
            position: start,
            opcode_at: start,
            values: Vec::new(),
            tensors: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            result: 0,
        };
        let file = || file.to_string();
        loop {
            match machine.step() {
                Ok(false) => {}
                Ok(true) => return Ok(machine),
                Err(Failure::Bad(reason)) => {
                    return Err(Error::Pickle { file: file(), offset: machine.opcode_at, reason });
                }
                Err(Failure::Refused(callable)) => return Err(Error::RefusedCode { file: file(), callable }),
                Err(Failure::TooLarge(what, wanted, limit)) => {
                    return Err(Error::TooLarge { file: file(), what: what.to_string(), wanted, limit });
                }
            }
        }
    }

    /// The byte after the pickle.
    pub(super) fn end(&self) -> usize {
        self.position
    }

    /// All storages that the pickle mentions.
    pub(super) fn storages(&self) -> impl Iterator<Item = &StorageRef<'a>> {
        self.values.iter().filter_map(|value| if let Value::Storage(storage) = value { Some(storage) } else { None })
    }

    /// What the pickle is of.
    pub(super) fn result(&self) -> &Value<'a> {
        self.value(self.result)
    }

    /// The entries of a dict that have text for a key, in order; nothing if `value` is no dict.
    pub(super) fn pairs<'m>(&'m self, value: &'m Value<'a>) -> impl Iterator<Item = (&'a str, &'m Value<'a>)> {
        let pairs: &[(Ref, Ref)] = if let Value::Dict(pairs) = value { pairs } else { &[] };
        pairs.iter().filter_map(|&(key, value)| match self.value(key) {
            Value::Text(key) => Some((*key, self.value(value))),
            _ => None,
        })
    }

    pub(super) fn value(&self, at: Ref) -> &Value<'a> {
        // Refs are made by `push` only, which never removes a value.
        &self.values[at as usize]
    }

    /// Runs one opcode; true after STOP.
    fn step(&mut self) -> Step<bool> {
        self.opcode_at = self.position;
        let [opcode] = self.take_array()?;
        match opcode {
            // Framing.
            0x80 => match self.take_array()? {
                [2..=5] => {}
                [protocol] => return bad(format!("wanted pickle protocol 2 to 5, found {protocol}")),
            },
            0x95 => drop(self.take(8)?), // FRAME
            b'.' => {
                self.result = self.pop()?;
                return Ok(true);
            }
            // Constants.
            b'N' => self.push(Value::Opaque)?,
            0x88 | 0x89 => self.push(Value::Bool(opcode == 0x88))?,
            b'J' => {
                let value = i32::from_le_bytes(self.take_array()?);
                self.push(Value::Integer(value.into()))?;
            }
            b'K' => {
                let [value] = self.take_array()?;
                self.push(Value::Integer(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.take_array()?);
                self.push(Value::Integer(value.into()))?;
            }
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'G' => self.opaque(8)?,
            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            0x8d => self.text(8)?,
            b'U' => self.text(1)?, // SHORT_BINSTRING: Python 2's str
            b'T' => self.text(4)?,
            b'C' => self.bytes(1)?,
            b'B' => self.bytes(4)?,
            0x8e => self.bytes(8)?,
            // Containers.
            b')' | b']' | 0x8f => self.push(Value::Sequence(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' | b'l' | 0x91 => {
                let items = self.pop_mark()?;
                self.push(Value::Sequence(items))?;
            }
            b'd' => {
                let items = self.pop_mark()?;
                self.push(Value::Dict(Vec::new()))?;
                self.set_items(items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(items)?;
            }
            // The stack.
            b'(' if self.marks.len() >= MAX_MARKS => {
                return Err(Failure::TooLarge(
                    "nesting of a pickle (marks)",
                    self.marks.len() as u64 + 1,
                    MAX_MARKS as u64,
                ));
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.top()?;
                self.push_ref(top)?;
            }
            // The memo.
            b'q' => {
                let [at] = self.take_array()?;
                self.put(at.into())?;
            }
            b'r' => {
                let at = u32::from_le_bytes(self.take_array()?);
                self.put(at)?;
            }
            0x94 => self.put(self.memo.len() as u32)?,
            b'h' => {
                let [at] = self.take_array()?;
                self.get(at.into())?;
            }
            b'j' => {
                let at = u32::from_le_bytes(self.take_array()?);
                self.get(at)?;
            }
            // Objects.
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (self.value(module), self.value(name)) else {
                    return bad("STACK_GLOBAL without a name");
                };
                let (module, name) = (*module, *name);
                self.global(module, name)?;
            }
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                self.call(callable, arguments)?;
            }
            b'b' => {
                // The state of an OrderedDict or a parameter: attributes, which weights have no use for.
                self.pop()?;
                if !matches!(self.value(self.top()?), Value::Dict(_) | Value::Tensor(_)) {
                    return bad("BUILD of something other than a dict or a tensor");
                }
            }
            b'Q' => {
                let id = self.pop()?;
                self.persistent(id)?;
            }
            // INST names a callable, too; protocol 0.
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                return Err(Failure::Refused(full_name(module, name)));
            }
            other => return bad(format!("opcode 0x{other:02x} is not used by state dicts")),
        }
        Ok(false)
    }

    // Reading operands.

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        let rest = self.pickle.get(self.position..).unwrap_or_default();
        match rest.get(..count) {
            Some(bytes) => {
                self.position += count;
                Ok(bytes)
            }
            None => bad(format!("it ends early: wanted {count} bytes, found {}", rest.len())),
        }
    }

    fn take_array<const COUNT: usize>(&mut self) -> Step<[u8; COUNT]> {
        let mut array = [0; COUNT];
        array.copy_from_slice(self.take(COUNT)?);
        Ok(array)
    }

    /// Bytes behind a length of `width` bytes.
    fn counted(&mut self, width: usize) -> Step<&'a [u8]> {
        let mut length = [0; 8];
        length[..width].copy_from_slice(self.take(width)?);
        match usize::try_from(u64::from_le_bytes(length)) {
            Ok(length) => self.take(length),
            Err(_) => bad("a length beyond this machine's memory"),
        }
    }

    fn line(&mut self) -> Step<&'a str> {
        let rest = self.pickle.get(self.position..).unwrap_or_default();
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            return bad("a name without an end");
        };
        self.position += length + 1;
        std::str::from_utf8(&rest[..length]).or_else(|_| bad("a name that is not UTF-8"))
    }

    // Constants.

    fn opaque(&mut self, width: usize) -> Step {
        self.take(width)?;
        self.push(Value::Opaque)
    }

    fn bytes(&mut self, width: usize) -> Step {
        self.counted(width)?;
        self.push(Value::Opaque)
    }

    fn text(&mut self, width: usize) -> Step {
        match std::str::from_utf8(self.counted(width)?) {
            Ok(text) => self.push(Value::Text(text)),
            Err(_) => bad("text that is not UTF-8"),
        }
    }

    /// A little-endian two's complement integer of any length.
    fn long(&mut self, width: usize) -> Step {
        let bytes = self.counted(width)?;
        if bytes.len() > 8 {
            return self.push(Value::Opaque);
        }
        let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
        let mut extended = [if negative { 0xff } else { 0 }; 8];
        extended[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Integer(i64::from_le_bytes(extended)))
    }

    // The stack and the memo.

    pub(super) fn push(&mut self, value: Value<'a>) -> Step {
        if self.values.len() >= MAX_VALUES {
            return Err(Failure::TooLarge("pickle (objects)", self.values.len() as u64 + 1, MAX_VALUES as u64));
        }
        self.values.push(value);
        self.push_ref((self.values.len() - 1) as Ref)
    }

    pub(super) fn push_ref(&mut self, value: Ref) -> Step {
        if self.stack.len() >= MAX_VALUES {
            return Err(Failure::TooLarge("pickle stack (objects)", self.stack.len() as u64 + 1, MAX_VALUES as u64));
        }
        self.stack.push(value);
        Ok(())
    }

    /// The top of the stack; what lies below the last MARK is out of reach.
    fn top(&self) -> Step<Ref> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.get(floor..).and_then(<[Ref]>::last) {
            Some(&value) => Ok(value),
            None => bad("the stack is empty"),
        }
    }

    fn pop(&mut self) -> Step<Ref> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_mark(&mut self) -> Step<Vec<Ref>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark.min(self.stack.len()))),
            None => bad("no mark on the stack"),
        }
    }

    fn put(&mut self, at: u32) -> Step {
        if at as usize >= MAX_VALUES {
            return Err(Failure::TooLarge("pickle memo (objects)", u64::from(at) + 1, MAX_VALUES as u64));
        }
        let top = self.top()?;
        self.memo.insert(at, top);
        Ok(())
    }

    fn get(&mut self, at: u32) -> Step {
        match self.memo.get(&at) {
            Some(&value) => self.push_ref(value),
            None => bad(format!("memo {at} was never set")),
        }
    }

    // Containers.

    fn tuple(&mut self, count: usize) -> Step {
        let mut items = vec![0; count];
        for item in items.iter_mut().rev() {
            *item = self.pop()?;
        }
        self.push(Value::Sequence(items))
    }

    fn append(&mut self, items: Vec<Ref>) -> Step {
        let top = self.top()?;
        match &mut self.values[top as usize] {
            Value::Sequence(list) => list.extend(items),
            _ => return bad("items appended to something other than a list"),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Ref>) -> Step {
        let top = self.top()?;
        let (pairs, []) = items.as_chunks::<2>() else {
            return bad("a dict key without a value");
        };
        match &mut self.values[top as usize] {
            Value::Dict(dict) => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            _ => return bad("items set on something other than a dict"),
        }
        Ok(())
    }
}
