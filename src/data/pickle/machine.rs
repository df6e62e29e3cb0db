//! The stack machine. Values lie in an arena and refer to one another by number, so a memo costs nothing and a value
//! may be completed after it was remembered.

use super::input::{Input, Outcome};
use super::{Array, MAX_DEPTH, MAX_VALUES, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Index of a value in the arena.
type Id = u32;

/// A number type as numpy names it.
#[derive(Clone, Copy)]
struct NumberType {
    kind: char,
    item_bytes: usize,
    big_endian: bool,
}

/// The globals that mean something here.
#[derive(Clone, Copy, PartialEq)]
enum Global {
    Reconstruct,
    NdArray,
    NumberType,
    Encode,
}

enum Node<'a> {
    Plain(Value<'a>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    NumberType(NumberType),
    /// An array, `None` until its state is built.
    Array(Option<Array<'a>>),
}

struct Machine<'a> {
    input: Input<'a>,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: BTreeMap<u64, Id>,
    /// Values that may still be made when the result is taken out.
    values_left: usize,
}

/// Runs a pickle to its end.
pub(super) fn run(bytes: &[u8]) -> Outcome<Value<'_>> {
    let mut machine = Machine {
        input: Input::new(bytes),
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        values_left: MAX_VALUES,
    };
    loop {
        let at = machine.input.at();
        match machine.step() {
            Ok(false) => {}
            Ok(true) => {
                let root = machine.pop()?;
                return machine.taken(root, 0);
            }
            Err(why) => return Err(format!("{why}, at byte {at}")),
        }
    }
}

impl<'a> Machine<'a> {
    /// Does one opcode; true at the end.
    fn step(&mut self) -> Outcome<bool> {
        let opcode = self.input.take(1)?[0];
        match opcode {
            b'.' => return Ok(true),
            0x80 => _ = self.input.take(1)?,
            0x95 => _ = self.input.take(8)?,
            b'(' => self.marks.push(self.stack.len()),
            b'0' => _ = self.pop()?,
            b'1' => _ = self.above_mark()?,
            b'2' => self.stack.push(self.top()?),
            b'N' => self.push(Node::Plain(Value::None))?,
            0x88 | 0x89 => self.push(Node::Plain(Value::Bool(opcode == 0x88)))?,
            b'I' | b'L' | b'J' | b'K' | b'M' | 0x8a | 0x8b | b'F' | b'G' => {
                let value = self.input.number(opcode)?;
                self.push(Node::Plain(value))?;
            }
            b'S' | b'T' | b'U' | b'B' | b'C' | 0x8e => {
                let bytes = self.input.byte_string(opcode)?;
                self.push(Node::Plain(Value::Bytes(bytes)))?;
            }
            b'V' | b'X' | 0x8c | 0x8d => {
                let text = self.input.text(opcode)?;
                self.push(Node::Plain(Value::Text(text)))?;
            }
            b']' => self.push(Node::List(Vec::new()))?,
            b')' => self.push(Node::Tuple(Vec::new()))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            b'l' | b't' | b'd' => {
                let items = self.above_mark()?;
                self.push(match opcode {
                    b'l' => Node::List(items),
                    b't' => Node::Tuple(items),
                    _ => Node::Dict(pairs(&items)?),
                })?;
            }
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let start = self.stack.len().checked_sub(count).filter(|s| *s >= self.floor());
                let items = self.stack.split_off(start.ok_or(EMPTY)?);
                self.push(Node::Tuple(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend_list(vec![item])?;
            }
            b'e' => {
                let items = self.above_mark()?;
                self.extend_list(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend_dict(&[key, value])?;
            }
            b'u' => {
                let items = self.above_mark()?;
                self.extend_dict(&items)?;
            }
            b'p' | b'q' | b'r' | 0x94 => self.remember(opcode)?,
            b'g' | b'h' | b'j' => {
                let key = self.memo_key(opcode, b'g')?;
                let id = self.memo.get(&key).ok_or_else(|| format!("nothing remembered as {key}"));
                self.stack.push(*id?);
            }
            b'c' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.push(Node::Global(global(module, name)?))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let found = match (self.node(module), self.node(name)) {
                    (Node::Plain(Value::Text(module)), Node::Plain(Value::Text(name))) => {
                        global(module.as_bytes(), name.as_bytes())?
                    }
                    _ => return Err("a global without a name".to_owned()),
                };
                self.push(Node::Global(found))?;
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let result = self.call(function, arguments)?;
                self.push(result)?;
            }
            b'b' => {
                let (state, object) = (self.pop()?, self.top()?);
                self.build(object, state)?;
            }
            other => {
                return Err(format!("opcode {other:#04x} is none of plain data and refused"));
            }
        }
        Ok(false)
    }

    fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id as usize]
    }

    fn push(&mut self, node: Node<'a>) -> Outcome<()> {
        if self.nodes.len() == MAX_VALUES {
            return Err(too_many());
        }
        self.stack.push(self.nodes.len() as Id);
        self.nodes.push(node);
        Ok(())
    }

    /// Height below which the stack belongs to what was before the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Outcome<Id> {
        self.stack.get(self.floor()..).and_then(|s| s.last()).copied().ok_or(EMPTY.to_owned())
    }

    fn pop(&mut self) -> Outcome<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn above_mark(&mut self) -> Outcome<Vec<Id>> {
        let mark = self.marks.pop().ok_or("no mark")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn extend_list(&mut self, items: Vec<Id>) -> Outcome<()> {
        let list = self.top()?;
        match &mut self.nodes[list as usize] {
            Node::List(all) => all.extend(items),
            _ => return Err("items for what is no list".to_owned()),
        }
        Ok(())
    }

    fn extend_dict(&mut self, items: &[Id]) -> Outcome<()> {
        let dict = self.top()?;
        match &mut self.nodes[dict as usize] {
            Node::Dict(all) => all.extend(pairs(items)?),
            _ => return Err("keys for what is no dictionary".to_owned()),
        }
        Ok(())
    }

    fn memo_key(&mut self, opcode: u8, text: u8) -> Outcome<u64> {
        if opcode != text {
            return Ok(self.input.length(if matches!(opcode, b'q' | b'h') { 1 } else { 4 })? as u64);
        }
        let line = std::str::from_utf8(self.input.line()?).ok().and_then(|line| line.parse().ok());
        line.ok_or("a memo without a number".to_owned())
    }

    fn remember(&mut self, opcode: u8) -> Outcome<()> {
        let key = match opcode {
            0x94 => self.memo.len() as u64,
            _ => self.memo_key(opcode, b'p')?,
        };
        if self.memo.len() == MAX_VALUES {
            return Err(too_many());
        }
        self.memo.insert(key, self.top()?);
        Ok(())
    }

    /// What a permitted global gives for a tuple of arguments.
    fn call(&mut self, function: Id, arguments: Id) -> Outcome<Node<'a>> {
        let (Node::Global(function), Node::Tuple(arguments)) =
            (self.node(function), self.node(arguments))
        else {
            return Err("a call of what is no permitted function".to_owned());
        };
        let arguments: Vec<&Node> = arguments.iter().map(|id| self.node(*id)).collect();
        match (function, arguments.as_slice()) {
            (Global::Reconstruct, [Node::Global(Global::NdArray), _, _]) => Ok(Node::Array(None)),
            (Global::NumberType, [Node::Plain(code), ..]) => {
                number_type(code).map(Node::NumberType)
            }
            (
                Global::Encode,
                [Node::Plain(Value::Text(text)), Node::Plain(Value::Text(encoding))],
            ) => {
                if !matches!(&**encoding, "latin1" | "latin-1") {
                    return Err(format!("encoding `{}`", encoding.escape_default()));
                }
                self.input.copied(text.len())?;
                let bytes: Option<Vec<u8>> =
                    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
                let bytes = bytes.ok_or("a text that is no Latin-1")?;
                Ok(Node::Plain(Value::Bytes(Cow::Owned(bytes))))
            }
            (Global::NdArray, _) => Err("a call of `numpy ndarray` is refused".to_owned()),
            _ => Err("a call with unexpected arguments".to_owned()),
        }
    }

    /// Gives an array or a number type its state.
    fn build(&mut self, object: Id, state: Id) -> Outcome<()> {
        let Node::Tuple(state) = self.node(state) else {
            return Err("a state that is no tuple".to_owned());
        };
        let state: Vec<&Node> = state.iter().map(|id| self.node(*id)).collect();
        let built = match (self.node(object), state.as_slice()) {
            (Node::NumberType(kind), [_, Node::Plain(order), ..]) => Node::NumberType(NumberType {
                big_endian: order.text().as_deref() == Some(">"),
                ..*kind
            }),
            (Node::Array(None), [_, shape, Node::NumberType(kind), Node::Plain(columns), data]) => {
                if *columns != Value::Bool(false) && *columns != Value::Int(0) {
                    return Err("an array stored column by column".to_owned());
                }
                let Node::Tuple(shape) = shape else { return Err("a shape is missing".to_owned()) };
                let size = |id: &Id| match self.node(*id) {
                    Node::Plain(Value::Int(size)) => usize::try_from(*size).ok(),
                    _ => None,
                };
                let shape: Option<Vec<usize>> = shape.iter().map(size).collect();
                let shape = shape.filter(|shape| shape.len() <= MAX_DEPTH).ok_or("no shape")?;
                let Node::Plain(Value::Bytes(data)) = data else {
                    return Err("an array without data".to_owned());
                };
                let bytes = shape.iter().try_fold(kind.item_bytes, |all, n| all.checked_mul(*n));
                if bytes != Some(data.len()) {
                    return Err(format!(
                        "an array of shape {shape:?}, {} bytes a number, holds {} bytes",
                        kind.item_bytes,
                        data.len()
                    ));
                }
                if let Cow::Owned(data) = data {
                    self.input.copied(data.len())?;
                }
                let NumberType { kind, item_bytes, big_endian } = *kind;
                Node::Array(Some(Array { shape, kind, item_bytes, big_endian, data: data.clone() }))
            }
            _ => return Err("a state that fits no array".to_owned()),
        };
        self.nodes[object as usize] = built;
        Ok(())
    }

    /// A value with everything in it.
    fn taken(&mut self, id: Id, depth: usize) -> Outcome<Value<'a>> {
        self.values_left = self.values_left.checked_sub(1).ok_or_else(too_many)?;
        if depth > MAX_DEPTH {
            return Err(format!("nested more than {MAX_DEPTH} deep"));
        }
        let owned = match self.node(id) {
            Node::Plain(Value::Bytes(Cow::Owned(bytes)))
            | Node::Array(Some(Array { data: Cow::Owned(bytes), .. })) => bytes.len(),
            Node::Plain(Value::Text(Cow::Owned(text))) => text.len(),
            Node::List(items) | Node::Tuple(items) => items.len(),
            Node::Dict(items) => items.len(),
            _ => 0,
        };
        self.input.copied(owned)?;
        let all = |this: &mut Self, items: Vec<Id>| -> Outcome<Vec<Value<'a>>> {
            items.into_iter().map(|item| this.taken(item, depth + 1)).collect()
        };
        Ok(match self.node(id) {
            Node::Plain(value) => value.clone(),
            Node::List(items) => Value::List(all(self, items.clone())?),
            Node::Tuple(items) => Value::Tuple(all(self, items.clone())?),
            Node::Dict(items) => {
                let mut dict = Vec::new();
                for (key, value) in items.clone() {
                    dict.push((self.taken(key, depth + 1)?, self.taken(value, depth + 1)?));
                }
                Value::Dict(dict)
            }
            Node::Array(Some(array)) => Value::Array(array.clone()),
            Node::Array(None) | Node::Global(_) | Node::NumberType(_) => {
                return Err(
                    "an unfinished array, a type or a function in the place of data".to_owned()
                );
            }
        })
    }
}

const EMPTY: &str = "nothing left on the stack";

fn too_many() -> String {
    format!("more than {MAX_VALUES} values")
}

fn global(module: &[u8], name: &[u8]) -> Outcome<Global> {
    match (module, name) {
        (b"numpy.core.multiarray" | b"numpy._core.multiarray", b"_reconstruct") => {
            Ok(Global::Reconstruct)
        }
        (b"numpy", b"ndarray") => Ok(Global::NdArray),
        (b"numpy", b"dtype") => Ok(Global::NumberType),
        (b"_codecs", b"encode") => Ok(Global::Encode),
        _ => Err(format!(
            "global `{} {}` is refused, only those of numpy arrays are known",
            module.escape_ascii(),
            name.escape_ascii()
        )),
    }
}

fn pairs(items: &[Id]) -> Outcome<Vec<(Id, Id)>> {
    let (pairs, []) = items.as_chunks() else { return Err("a key without a value".to_owned()) };
    Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
}

/// A number type by its code, `u1` or `<i8`.
fn number_type(code: &Value) -> Outcome<NumberType> {
    let code = code.text().unwrap_or_default();
    let refused = || format!("numbers of type `{}`", code.escape_default());
    let (order, rest) = match code.strip_prefix(['<', '>', '|', '=']) {
        Some(rest) => (code.starts_with('>'), rest),
        None => (false, &*code),
    };
    let mut letters = rest.chars();
    let kind = letters.next().filter(|kind| "uifb".contains(*kind)).ok_or_else(refused)?;
    let item_bytes = match letters.as_str() {
        "1" => 1,
        "2" => 2,
        "4" => 4,
        "8" => 8,
        _ => return Err(refused()),
    };
    Ok(NumberType { kind, item_bytes, big_endian: order })
}
