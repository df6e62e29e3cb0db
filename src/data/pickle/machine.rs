//! The stack machine. Values lie in an arena and refer to one another by number, so a memo costs nothing and a value
//! may be completed after it was remembered.

use super::graph::{Graph, Id, Node, Object};
use super::input::{Input, Outcome};
use super::skim::Far;
use super::{Globals, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;

pub(super) struct Machine<'a> {
    pub(super) input: Input<'a>,
    pub(super) globals: Globals,
    pub(super) nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: BTreeMap<u64, Id>,
}

/// Runs a pickle to its end; with what it made comes how many bytes may still be copied.
pub(super) fn run<'a>(
    bytes: &'a [u8],
    far: &'a [Far],
    globals: Globals,
) -> Outcome<(Graph<'a>, usize)> {
    let mut machine = Machine {
        input: Input::new(bytes, far),
        globals,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
    };
    loop {
        let at = machine.input.place();
        match machine.step() {
            Ok(false) => {}
            Ok(true) => {
                let root = machine.pop()?;
                let (length, copies) = (machine.input.at(), machine.input.copies_left());
                return Ok((Graph { nodes: machine.nodes, root, length }, copies));
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
            b'(' => self.mark()?,
            b'0' => _ = self.pop()?,
            b'1' => _ = self.above_mark()?,
            b'2' => self.push_again(self.top()?)?,
            b'N' => self.push(Node::Plain(Value::None))?,
            0x88 | 0x89 => self.push(Node::Plain(Value::Bool(opcode == 0x88)))?,
            b'I' | b'L' | b'J' | b'K' | b'M' | 0x8a | 0x8b | b'F' | b'G' => {
                let kept = self.globals == Globals::Kept;
                let node = match self.input.number(opcode)? {
                    Some(value) => Node::Plain(value),
                    None if kept => Node::Long,
                    None => return Err("an integer of more than 64 bits".to_owned()),
                };
                self.push(node)?;
            }
            b'S' | b'T' | b'U' | b'B' | b'C' | 0x8e | 0x96 => {
                let node = match self.input.byte_string(opcode)? {
                    Ok(bytes) => Node::Plain(Value::Bytes(bytes)),
                    Err(far) => Node::Far(far),
                };
                self.push(node)?;
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
                self.push_again(*id?)?;
            }
            b'c' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                let global = self.global(readable(module), readable(name))?;
                self.push(global)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Node::Plain(Value::Text(module)), Node::Plain(Value::Text(name))) =
                    (self.node(module), self.node(name))
                else {
                    return Err("a global without a name".to_owned());
                };
                let global = self.global(self.again(module)?, self.again(name)?)?;
                self.push(global)?;
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
            // Out-of-band buffers lie nowhere; that one may not be written to does not matter.
            0x98 => {}
            other if self.globals == Globals::Kept => self.step_of_objects(other)?,
            other => return Err(refused(other)),
        }
        Ok(false)
    }

    /// Opcodes of objects, which are kept as what they say.
    fn step_of_objects(&mut self, opcode: u8) -> Outcome<()> {
        match opcode {
            // A set is a list; this adds to one, and this makes one that stays as it is.
            0x8f => self.push(Node::List(Vec::new())),
            0x90 => {
                let items = self.above_mark()?;
                self.extend_list(items)
            }
            0x91 => {
                let items = self.above_mark()?;
                self.push(Node::List(items))
            }
            0x81 => {
                let (arguments, class) = (self.pop()?, self.pop()?);
                let object = self.call(class, arguments)?;
                self.push(object)
            }
            0x92 => {
                let (_, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.push(Node::Object(Object { class, arguments, state: None }))
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))
            }
            other => Err(refused(other)),
        }
    }

    /// A text once more; one that is not borrowed is copied, which is counted.
    fn again(&self, text: &Cow<'a, str>) -> Outcome<Cow<'a, str>> {
        if let Cow::Owned(text) = text {
            self.input.copied(text.len())?;
        }
        Ok(text.clone())
    }

    pub(super) fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id as usize]
    }

    fn push(&mut self, node: Node<'a>) -> Outcome<()> {
        if self.nodes.len() == self.globals.most_values() {
            return Err(too_many(self.nodes.len()));
        }
        self.push_again(self.nodes.len() as Id)?;
        self.nodes.push(node);
        Ok(())
    }

    /// Puts a value onto the stack that may lie there already.
    fn push_again(&mut self, id: Id) -> Outcome<()> {
        if self.stack.len() == self.globals.most_values() {
            return Err(too_many(self.stack.len()));
        }
        self.stack.push(id);
        Ok(())
    }

    /// Height below which the stack belongs to what was before the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    pub(super) fn top(&self) -> Outcome<Id> {
        self.stack.get(self.floor()..).and_then(|s| s.last()).copied().ok_or(EMPTY.to_owned())
    }

    fn pop(&mut self) -> Outcome<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn mark(&mut self) -> Outcome<()> {
        if self.marks.len() == self.globals.most_values() {
            return Err(too_many(self.marks.len()));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn above_mark(&mut self) -> Outcome<Vec<Id>> {
        let mark = self.marks.pop().ok_or("no mark")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
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
        if self.memo.len() == self.globals.most_values() {
            return Err(too_many(self.memo.len()));
        }
        self.memo.insert(key, self.top()?);
        Ok(())
    }
}

const EMPTY: &str = "nothing left on the stack";

pub(super) fn too_many(most: usize) -> String {
    format!("more than {most} values")
}

fn refused(opcode: u8) -> String {
    format!("opcode {opcode:#04x} is none of plain data and refused")
}

/// A name as it can be shown.
fn readable(name: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(name)
}

pub(super) fn pairs(items: &[Id]) -> Outcome<Vec<(Id, Id)>> {
    let (pairs, []) = items.as_chunks() else { return Err("a key without a value".to_owned()) };
    Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
}
