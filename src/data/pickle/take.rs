//! Taking a value with everything in it out of the arena.

use super::graph::{Graph, Id, Node};
use super::input::Outcome;
use super::machine::too_many;
use super::{Array, MAX_DEPTH, MAX_VALUES, Value};
use std::borrow::Cow;

/// The value at the top; `copies` bytes may be copied.
pub(super) fn value<'a>(graph: &Graph<'a>, copies: usize) -> Outcome<Value<'a>> {
    Taking { graph, values: MAX_VALUES, copies }.taken(graph.root, 0)
}

struct Taking<'g, 'a> {
    graph: &'g Graph<'a>,
    /// Values that may still be made.
    values: usize,
    /// Bytes that may still be copied.
    copies: usize,
}

impl<'a> Taking<'_, 'a> {
    fn taken(&mut self, id: Id, depth: usize) -> Outcome<Value<'a>> {
        self.values = self.values.checked_sub(1).ok_or_else(|| too_many(MAX_VALUES))?;
        if depth > MAX_DEPTH {
            return Err(format!("nested more than {MAX_DEPTH} deep"));
        }
        let node = self.graph.node(id);
        let owned = match node {
            Node::Plain(Value::Bytes(Cow::Owned(bytes)))
            | Node::Array(Some(Array { data: Cow::Owned(bytes), .. })) => bytes.len(),
            Node::Plain(Value::Text(Cow::Owned(text))) => text.len(),
            Node::List(items) | Node::Tuple(items) => items.len(),
            Node::Dict(items) => items.len(),
            _ => 0,
        };
        self.copies = self
            .copies
            .checked_sub(owned)
            .ok_or("its values take more than eight times the size of the file")?;
        let mut all = |items: &[Id]| -> Outcome<Vec<Value<'a>>> {
            items.iter().map(|item| self.taken(*item, depth + 1)).collect()
        };
        Ok(match node {
            Node::Plain(value) => value.clone(),
            Node::List(items) => Value::List(all(items)?),
            Node::Tuple(items) => Value::Tuple(all(items)?),
            Node::Dict(items) => {
                let mut dict = Vec::new();
                for (key, value) in items {
                    dict.push((self.taken(*key, depth + 1)?, self.taken(*value, depth + 1)?));
                }
                Value::Dict(dict)
            }
            Node::Array(Some(array)) => Value::Array(array.clone()),
            Node::Long => return Err("an integer of more than 64 bits".to_owned()),
            Node::Array(None)
            | Node::Known(_)
            | Node::Named { .. }
            | Node::Far(_)
            | Node::FarArray(_)
            | Node::NumberType(_)
            | Node::Object(_)
            | Node::Persistent(_) => {
                return Err(
                    "an unfinished array, a type or a function in the place of data".to_owned()
                );
            }
        })
    }
}
