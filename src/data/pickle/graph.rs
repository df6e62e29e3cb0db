//! What a pickle made, before anything is taken out of it: values in an arena that refer to one another by number.

use super::skim::Far;
use super::{Array, Value};
use std::borrow::Cow;

/// Index of a value in the arena.
pub(crate) type Id = u32;

/// What a pickle made. Values may hold one another in circles; whoever walks them must count.
pub(crate) struct Graph<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    /// The value at the top.
    pub(crate) root: Id,
    /// How many bytes the pickle takes.
    pub(crate) length: usize,
}

impl<'a> Graph<'a> {
    /// A value.
    pub(crate) fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id as usize]
    }

    /// How many values there are.
    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// The text of a value that is one.
    pub(crate) fn text(&self, id: Id) -> Option<Cow<'_, str>> {
        match self.node(id) {
            Node::Plain(value) => value.text(),
            _ => None,
        }
    }

    /// A whole number that is not below 0.
    pub(crate) fn size(&self, id: Id) -> Option<usize> {
        match self.node(id) {
            Node::Plain(Value::Int(value)) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The items of a list or tuple.
    pub(crate) fn items(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::List(items) | Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The type or function of this name, `torch.FloatStorage`.
    pub(crate) fn global(&self, id: Id) -> Option<String> {
        match self.node(id) {
            Node::Named { module, name } => Some(format!("{module}.{name}")),
            Node::Known(known) => Some(known.name().to_owned()),
            _ => None,
        }
    }
}

/// A value of an arena.
pub(crate) enum Node<'a> {
    /// A number, a text, nothing.
    Plain(Value<'a>),
    /// An integer of more than 64 bits.
    Long,
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A global that means something here.
    Known(Global),
    /// Any other, by its name alone.
    Named {
        module: Cow<'a, str>,
        name: Cow<'a, str>,
    },
    NumberType(NumberType),
    /// An array, `None` until its state is built.
    Array(Option<Array<'a>>),
    /// One whose numbers were left in the file.
    FarArray(FarArray),
    /// A byte string that was.
    Far(Far),
    /// What a global that is only known by name would have made; nothing was called.
    Object(Object),
    /// What a pickle refers to and does not hold.
    Persistent(Id),
}

/// A numpy array of numbers, rows first, that was left in the file.
pub(crate) struct FarArray {
    /// Its dimensions.
    pub(crate) shape: Vec<usize>,
    /// Its numbers, as [`Array`] has them.
    pub(crate) number: NumberType,
    /// Where they lie.
    pub(crate) lies: Far,
}

/// The recipe of an object.
#[derive(Clone, Copy)]
pub(crate) struct Object {
    /// The type or function.
    pub(crate) class: Id,
    /// A tuple, as a rule.
    pub(crate) arguments: Id,
    /// What it is to hold.
    pub(crate) state: Option<Id>,
}

/// A number type as numpy names it.
#[derive(Clone, Copy)]
pub(crate) struct NumberType {
    pub(crate) kind: char,
    pub(crate) item_bytes: usize,
    pub(crate) big_endian: bool,
}

impl NumberType {
    /// A number of it, for people.
    pub(crate) fn shown(self, bytes: &[u8]) -> Option<String> {
        if bytes.len() != self.item_bytes {
            return None;
        }
        let mut bytes = bytes.to_vec();
        if self.big_endian {
            bytes.reverse();
        }
        let whole = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |sum, b| sum << 8 | u64::from(*b));
        match (self.kind, bytes.len()) {
            ('f', 8) => Some(f64::from_bits(whole(&bytes)).to_string()),
            ('f', 4) => Some(f32::from_bits(whole(&bytes) as u32).to_string()),
            ('i', 8) => Some((whole(&bytes) as i64).to_string()),
            ('i', 4) => Some((whole(&bytes) as u32 as i32).to_string()),
            ('u' | 'b', _) => Some(whole(&bytes).to_string()),
            _ => None,
        }
    }
}

/// The globals that mean something here.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Global {
    Reconstruct,
    FromBuffer,
    NdArray,
    NumberType,
    Encode,
    /// A dictionary of another type.
    Dict,
    /// A set, which is read as a list.
    Set,
}

impl Global {
    fn name(self) -> &'static str {
        match self {
            Self::Reconstruct => "numpy.core.multiarray._reconstruct",
            Self::FromBuffer => "numpy.core.numeric._frombuffer",
            Self::NdArray => "numpy.ndarray",
            Self::NumberType => "numpy.dtype",
            Self::Encode => "_codecs.encode",
            Self::Dict => "collections.OrderedDict",
            Self::Set => "builtins.set",
        }
    }
}
