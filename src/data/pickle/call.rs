//! The few functions that mean something, evaluated here; any other is refused, or kept as its name.

use super::graph::{FarArray, Global, Id, Node, NumberType, Object};
use super::input::Outcome;
use super::machine::{Machine, pairs};
use super::{Array, Globals, MAX_DEPTH, Value};
use std::borrow::Cow;

/// Longest name of a type or function, with its module, in bytes.
const LONGEST_GLOBAL: usize = 1000;

impl<'a> Machine<'a> {
    /// A type or function by its name.
    pub(super) fn global(&self, module: Cow<'a, str>, name: Cow<'a, str>) -> Outcome<Node<'a>> {
        let kept = self.globals == Globals::Kept;
        let length = module.len() + name.len();
        if length > LONGEST_GLOBAL {
            return Err(format!("a global with a name of {length} bytes"));
        }
        let known = match (&*module, &*name) {
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => {
                Global::Reconstruct
            }
            ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Global::FromBuffer,
            ("numpy", "ndarray") => Global::NdArray,
            ("numpy", "dtype") => Global::NumberType,
            ("_codecs", "encode") => Global::Encode,
            ("collections", "OrderedDict" | "defaultdict") if kept => Global::Dict,
            ("__builtin__" | "builtins", "set" | "frozenset") if kept => Global::Set,
            _ if kept => return Ok(Node::Named { module, name }),
            _ => {
                return Err(format!(
                    "global `{} {}` is refused, only those of numpy arrays are known",
                    module.escape_default(),
                    name.escape_default()
                ));
            }
        };
        Ok(Node::Known(known))
    }

    /// What a global gives for its arguments.
    pub(super) fn call(&mut self, class: Id, arguments: Id) -> Outcome<Node<'a>> {
        let kept = self.globals == Globals::Kept;
        let object = || Node::Object(Object { class, arguments, state: None });
        match self.node(class) {
            Node::Known(known) => match self.evaluated(*known, arguments) {
                Err(_) if kept => Ok(object()),
                outcome => outcome,
            },
            _ if kept => Ok(object()),
            _ => Err("a call of what is no permitted function".to_owned()),
        }
    }

    fn evaluated(&self, function: Global, arguments: Id) -> Outcome<Node<'a>> {
        let Node::Tuple(arguments) = self.node(arguments) else {
            return Err("a call of what is no permitted function".to_owned());
        };
        let nodes: Vec<&Node> = arguments.iter().take(8).map(|id| self.node(*id)).collect();
        match (function, nodes.as_slice()) {
            (Global::Reconstruct, [Node::Known(Global::NdArray), _, _]) => Ok(Node::Array(None)),
            (Global::FromBuffer, [data, Node::NumberType(kind), _, Node::Plain(order)]) => {
                if order.text().as_deref() != Some("C") {
                    return Err("an array stored column by column".to_owned());
                }
                self.array(*kind, arguments[2], data)
            }
            (Global::NumberType, [Node::Plain(code), ..]) => {
                number_type(code).map(Node::NumberType)
            }
            (
                Global::Encode,
                [Node::Plain(Value::Text(text)), Node::Plain(Value::Text(encoding))],
            ) => {
                if !matches!(&**encoding, "latin1" | "latin-1") {
                    return Err("an encoding other than `latin1`".to_owned());
                }
                self.input.copied(text.len())?;
                let bytes: Option<Vec<u8>> =
                    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
                let bytes = bytes.ok_or("a text that is no Latin-1")?;
                Ok(Node::Plain(Value::Bytes(Cow::Owned(bytes))))
            }
            (Global::Dict, _) => self.dictionary(arguments),
            (Global::Set, []) => Ok(Node::List(Vec::new())),
            (Global::Set, [Node::List(items) | Node::Tuple(items)]) => {
                self.input.copied(size_of::<Id>() * items.len())?;
                Ok(Node::List(items.clone()))
            }
            (Global::NdArray, _) => Err("a call of `numpy ndarray` is refused".to_owned()),
            _ => Err("a call with unexpected arguments".to_owned()),
        }
    }

    /// A dictionary of another type: empty, or (Python 2) from a list of pairs. Where it gets its values by default from
    /// does not matter.
    fn dictionary(&self, arguments: &[Id]) -> Outcome<Node<'a>> {
        let Some(pairs) = arguments.iter().find_map(|id| match self.node(*id) {
            Node::List(items) | Node::Tuple(items) => Some(items),
            _ => None,
        }) else {
            return Ok(Node::Dict(Vec::new()));
        };
        self.input.copied(size_of::<(Id, Id)>() * pairs.len())?;
        let pair = |id: &Id| match self.node(*id) {
            Node::List(items) | Node::Tuple(items) => match items.as_slice() {
                [key, value] => Some((*key, *value)),
                _ => None,
            },
            _ => None,
        };
        let pairs: Option<Vec<(Id, Id)>> = pairs.iter().map(pair).collect();
        pairs.map(Node::Dict).ok_or("a dictionary of what are no pairs".to_owned())
    }

    /// Gives an object its state.
    pub(super) fn build(&mut self, id: Id, state_id: Id) -> Outcome<()> {
        let kept = self.globals == Globals::Kept;
        if kept {
            match self.node(id) {
                // What is said about a dictionary beside what it holds.
                Node::Dict(_) | Node::List(_) => return Ok(()),
                Node::Object(object) => {
                    let built = Object { state: Some(state_id), ..*object };
                    self.nodes[id as usize] = Node::Object(built);
                    return Ok(());
                }
                _ => {}
            }
        }
        match self.built(id, state_id) {
            Ok(node) => self.nodes[id as usize] = node,
            // It stays unfinished, which only matters to whoever wants it.
            Err(_) if kept => {}
            Err(why) => return Err(why),
        }
        Ok(())
    }

    /// An array or a number type with its state.
    fn built(&self, id: Id, state: Id) -> Outcome<Node<'a>> {
        let Node::Tuple(state) = self.node(state) else {
            return Err("a state that is no tuple".to_owned());
        };
        let nodes: Vec<&Node> = state.iter().take(8).map(|id| self.node(*id)).collect();
        Ok(match (self.node(id), nodes.as_slice()) {
            (Node::NumberType(kind), [_, Node::Plain(order), ..]) => Node::NumberType(NumberType {
                big_endian: order.text().as_deref() == Some(">"),
                ..*kind
            }),
            (Node::Array(None), [_, _, Node::NumberType(kind), Node::Plain(columns), data]) => {
                if *columns != Value::Bool(false) && *columns != Value::Int(0) {
                    return Err("an array stored column by column".to_owned());
                }
                self.array(*kind, state[1], data)?
            }
            _ => return Err("a state that fits no array".to_owned()),
        })
    }

    /// An array of these bytes.
    fn array(&self, number: NumberType, shape: Id, data: &Node<'a>) -> Outcome<Node<'a>> {
        let there = match data {
            Node::Plain(Value::Bytes(data)) => data.len() as u64,
            Node::Far(far) => far.bytes,
            _ => return Err("an array without data".to_owned()),
        };
        let Node::Tuple(shape) = self.node(shape) else {
            return Err("a shape is missing".to_owned());
        };
        let size = |id: &Id| match self.node(*id) {
            Node::Plain(Value::Int(size)) => usize::try_from(*size).ok(),
            _ => None,
        };
        if shape.len() > MAX_DEPTH {
            return Err("no shape".to_owned());
        }
        let shape: Option<Vec<usize>> = shape.iter().map(size).collect();
        let shape = shape.ok_or("no shape")?;
        let NumberType { kind, item_bytes, big_endian } = number;
        let bytes = shape.iter().try_fold(item_bytes, |all, n| all.checked_mul(*n));
        if bytes.map(|bytes| bytes as u64) != Some(there) {
            return Err(format!(
                "an array of shape {shape:?}, {item_bytes} bytes a number, holds {there} bytes"
            ));
        }
        Ok(match data {
            Node::Far(lies) => Node::FarArray(FarArray { shape, number, lies: *lies }),
            Node::Plain(Value::Bytes(data)) => {
                if let Cow::Owned(data) = data {
                    self.input.copied(data.len())?;
                }
                let data = data.clone();
                Node::Array(Some(Array { shape, kind, item_bytes, big_endian, data }))
            }
            _ => return Err("an array without data".to_owned()),
        })
    }

    /// The items of a list given to it; a list of another type keeps none.
    pub(super) fn extend_list(&mut self, items: Vec<Id>) -> Outcome<()> {
        let list = self.top()?;
        let kept = self.globals == Globals::Kept;
        match &mut self.nodes[list as usize] {
            Node::List(all) => all.extend(items),
            Node::Object(_) if kept => {}
            _ => return Err("items for what is no list".to_owned()),
        }
        Ok(())
    }

    /// The keys and values of a dictionary given to it; an object that takes some keeps none.
    pub(super) fn extend_dict(&mut self, items: &[Id]) -> Outcome<()> {
        let dict = self.top()?;
        let kept = self.globals == Globals::Kept;
        match &mut self.nodes[dict as usize] {
            Node::Dict(all) => all.extend(pairs(items)?),
            Node::Object(_) if kept => {}
            _ => return Err("keys for what is no dictionary".to_owned()),
        }
        Ok(())
    }
}

/// A number type by its code, `u1` or `<i8`.
fn number_type(code: &Value) -> Outcome<NumberType> {
    let code = code.text().unwrap_or_default();
    let refused = || format!("numbers of type `{:.40}`", code.escape_default().to_string());
    if code.len() > LONGEST_GLOBAL {
        return Err("numbers of no known type".to_owned());
    }
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
