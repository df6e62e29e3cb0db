//! From what a pickle made to tensors by name. Dictionaries, lists and tuples are walked; whatever else is there stays
//! what it says it is, and nobody asks it.

use super::torch::number;
use super::{Entry, Found, LONGEST_NAME, MOST_DIMENSIONS, Number, Storage, View};
use crate::data::pickle::{FarArray, Graph, Id, Node, Object, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Deepest nesting that is looked into.
const DEEPEST: usize = 32;

/// Most values that are looked at or passed by; a value that several hold counts for each.
const MOST_VISITS: usize = 4_000_000;

/// Longest list or tuple that is looked into.
const LONGEST_LIST: usize = 10_000;

/// Longest text that is kept as a note.
const LONGEST_NOTE: usize = 200;

/// Most notes, and most values of unknown types.
const MOST_NOTES: usize = 2_000;

/// Most bytes of all names.
const MOST_NAMES: usize = 64 << 20;

/// A storage by what the pickle says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// Its key in the file.
    pub(super) key: String,
    /// `None` if the tensor says what its numbers are.
    pub(super) number: Option<Number>,
    /// How many numbers; bytes where the tensor says what they are.
    pub(super) count: usize,
    /// Before PyTorch 1.6: the part of the storage that is meant, its first number and how many.
    pub(super) part: Option<(usize, usize)>,
}

impl Reference {
    /// How many bytes it takes.
    pub(super) fn bytes(&self) -> Option<u64> {
        let size = self.number.map_or(1, Number::bytes);
        self.count.checked_mul(size).map(|bytes| bytes as u64)
    }
}

/// Where a storage lies, or why it cannot be used.
pub(super) type Locate<'l> = dyn Fn(&Reference) -> Result<Storage, String> + 'l;

/// A pickle as it lies in the file: its bytes, and where each of them lies.
#[derive(Clone, Copy)]
pub(super) struct Lying<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) place: &'a dyn Fn(usize) -> u64,
}

/// Tensors, short values and the rest of what a pickle made; numbers of torch's tensors lie where `locate` says.
pub(super) fn walk(
    graph: &Graph<'_>,
    pickle: Lying<'_>,
    big_endian: bool,
    locate: &Locate<'_>,
) -> Result<Found, String> {
    let found = Found::default();
    let held = BTreeMap::new();
    let mut tree = Tree { graph, pickle, big_endian, locate, found, held, visits: 0, names: 0 };
    tree.visit(Path { group: "", name: "" }, graph.root, 0)?;
    Ok(tree.found)
}

/// What a persistent id says.
pub(super) fn reference(graph: &Graph<'_>, id: Id) -> Option<Reference> {
    let Node::Persistent(id) = graph.node(id) else { return None };
    let [kind, class, key, _, count, part @ ..] = graph.items(*id)? else { return None };
    if graph.text(*kind)? != "storage" {
        return None;
    }
    let class = graph.global(*class)?;
    let number = match class.rsplit_once('.')? {
        (_, "UntypedStorage") => None,
        (module, name) if module.starts_with("torch") => Some(number(name)?),
        _ => return None,
    };
    let text = graph.text(*key).map(Cow::into_owned);
    let key = text.or_else(|| graph.size(*key).map(|key| key.to_string()))?;
    let part = match part {
        [view, ..] => graph.items(*view).and_then(|view| match view {
            [_, offset, count] => Some((graph.size(*offset)?, graph.size(*count)?)),
            _ => None,
        }),
        [] => None,
    };
    Some(Reference { key, number, count: graph.size(*count)?, part })
}

struct Tree<'t, 'a> {
    graph: &'t Graph<'a>,
    pickle: Lying<'t>,
    big_endian: bool,
    locate: &'t Locate<'t>,
    found: Found,
    /// Numbers that lie in no file as they are, by the array that has them.
    held: BTreeMap<Id, Rc<[u8]>>,
    visits: usize,
    names: usize,
}

/// The keys that lead to a value: those of the dictionaries it lies in, and its own.
#[derive(Clone, Copy)]
struct Path<'p> {
    group: &'p str,
    name: &'p str,
}

impl Path<'_> {
    fn joined(self) -> String {
        match (self.group, self.name) {
            ("", name) => name.to_owned(),
            (group, "") => group.to_owned(),
            (group, name) => format!("{group}/{name}"),
        }
    }
}

impl Tree<'_, '_> {
    /// Counts values that are looked at.
    fn count(&mut self, values: usize) -> Result<(), String> {
        self.visits = self.visits.saturating_add(values);
        if self.visits > MOST_VISITS {
            return Err(format!("more than {MOST_VISITS} values, counted wherever they are held"));
        }
        Ok(())
    }

    /// Counts a value, and says whether it is to be looked into. Every step of a recursion goes through here.
    fn enters(&mut self, path: Path<'_>, depth: usize) -> Result<bool, String> {
        self.count(1)?;
        if path.group.len() + path.name.len() > LONGEST_NAME {
            return Err(format!("a name of more than {LONGEST_NAME} bytes"));
        }
        if depth > DEEPEST {
            self.opaque(path, format!("nested more than {DEEPEST} deep"));
        }
        Ok(depth <= DEEPEST)
    }

    fn visit(&mut self, path: Path<'_>, id: Id, depth: usize) -> Result<(), String> {
        if !self.enters(path, depth)? {
            return Ok(());
        }
        let graph = self.graph;
        match graph.node(id) {
            Node::Dict(pairs) => self.dictionary(path, pairs, depth),
            Node::List(items) | Node::Tuple(items) => self.list(path, items, depth),
            Node::Array(Some(array)) => {
                let start = self.pickle.bytes.as_ptr() as usize;
                let storage = match &array.data {
                    Cow::Borrowed(bytes) => {
                        let at = (bytes.as_ptr() as usize).saturating_sub(start);
                        let start = (self.pickle.place)(at);
                        Storage::At { file: 0, start, bytes: bytes.len() as u64 }
                    }
                    // One array under many names is held once.
                    Cow::Owned(bytes) => {
                        let held = self.held.entry(id).or_insert_with(|| Rc::from(&**bytes));
                        Storage::Held(Rc::clone(held))
                    }
                };
                let number = (array.kind, array.item_bytes, array.big_endian);
                self.array(path, number, &array.shape, storage)
            }
            Node::FarArray(FarArray { shape, number, lies }) => {
                let storage = Storage::At { file: 0, start: lies.start, bytes: lies.bytes };
                let number = (number.kind, number.item_bytes, number.big_endian);
                self.array(path, number, shape, storage)
            }
            Node::Far(lies) => {
                self.opaque(path, format!("a byte string of {} bytes", lies.bytes));
                Ok(())
            }
            Node::Array(None) => {
                self.opaque(path, "a numpy array of objects or stored column by column".into());
                Ok(())
            }
            Node::Object(object) => self.object(path, *object, depth),
            Node::Plain(value) => {
                if let Some(text) = short(value) {
                    self.note(path, text);
                }
                Ok(())
            }
            Node::Long => {
                self.note(path, "an integer of more than 64 bits".into());
                Ok(())
            }
            Node::Persistent(_) => {
                self.opaque(path, "a storage without a tensor".into());
                Ok(())
            }
            Node::Known(_) | Node::Named { .. } => {
                self.opaque(path, graph.global(id).unwrap_or_default());
                Ok(())
            }
            Node::NumberType(_) => {
                self.opaque(path, "numpy.dtype".into());
                Ok(())
            }
        }
    }

    fn dictionary(
        &mut self,
        path: Path<'_>,
        pairs: &[(Id, Id)],
        depth: usize,
    ) -> Result<(), String> {
        let group = path.joined();
        for (key, value) in pairs {
            self.count(1)?;
            let key = match self.graph.node(*key) {
                Node::Plain(Value::Int(key)) => Cow::Owned(key.to_string()),
                _ => match self.graph.text(*key) {
                    Some(key) => key,
                    // A class as a key, as Lightning has it for its callbacks.
                    None => match self.graph.global(*key) {
                        Some(key) => Cow::Owned(key),
                        None => continue,
                    },
                },
            };
            self.visit(Path { group: &group, name: &key }, *value, depth + 1)?;
        }
        Ok(())
    }

    fn list(&mut self, path: Path<'_>, items: &[Id], depth: usize) -> Result<(), String> {
        let plain = |id: &Id| matches!(self.graph.node(*id), Node::Plain(_) | Node::Long);
        if items.len() > LONGEST_LIST {
            self.opaque(path, format!("a list of {} values", items.len()));
            return Ok(());
        }
        if items.iter().all(plain) {
            self.count(items.len())?;
            let short = |id: &Id| match self.graph.node(*id) {
                Node::Plain(value) => short(value),
                _ => None,
            };
            let texts: Option<Vec<String>> = items.iter().take(16).map(short).collect();
            if let Some(texts) = texts.filter(|_| items.len() <= 16) {
                self.note(path, format!("[{}]", texts.join(", ")));
            }
            return Ok(());
        }
        let group = path.joined();
        for (index, item) in items.iter().enumerate() {
            self.visit(Path { group: &group, name: &index.to_string() }, *item, depth + 1)?;
        }
        Ok(())
    }

    fn object(&mut self, path: Path<'_>, object: Object, depth: usize) -> Result<(), String> {
        let graph = self.graph;
        let class = graph.global(object.class).unwrap_or_else(|| "an object".to_owned());
        let arguments = graph.items(object.arguments).unwrap_or_default();
        match (class.as_str(), arguments) {
            (
                "torch._utils._rebuild_parameter"
                | "torch._utils._rebuild_parameter_with_state"
                | "torch._tensor._rebuild_from_type_v2",
                _,
            ) => {
                // The last has the function, the type and its arguments in front.
                let inner = match arguments {
                    [function, _, inner, ..] if class.ends_with("from_type_v2") => {
                        let object = Object { class: *function, arguments: *inner, state: None };
                        if self.enters(path, depth + 1)? {
                            self.object(path, object, depth + 1)?;
                        }
                        return Ok(());
                    }
                    [inner, ..] => *inner,
                    [] => {
                        self.opaque(path, class);
                        return Ok(());
                    }
                };
                self.visit(path, inner, depth + 1)
            }
            (
                "torch._utils._rebuild_tensor"
                | "torch._utils._rebuild_tensor_v2"
                | "torch._utils._rebuild_tensor_v3",
                _,
            ) => match self.tensor(path, arguments, class.ends_with("v3")) {
                Ok(entry) => self.keep(entry),
                Err(why) => {
                    self.opaque(path, format!("a tensor that is not read: {why}"));
                    Ok(())
                }
            },
            ("numpy.core.multiarray.scalar" | "numpy._core.multiarray.scalar", [kind, bytes]) => {
                match (graph.node(*kind), graph.node(*bytes)) {
                    (Node::NumberType(kind), Node::Plain(Value::Bytes(bytes))) => {
                        let text = kind.shown(bytes).unwrap_or(class);
                        self.note(path, text);
                    }
                    _ => self.opaque(path, class),
                }
                Ok(())
            }
            // `TorchScript` says what its lists are of.
            (_, [list]) if class.starts_with("torch.jit._pickle.build_") => {
                self.visit(path, *list, depth + 1)
            }
            _ => match object.state.map(|state| graph.node(state)) {
                // A network whose code lies beside it, or that is all of the file: its parts are dictionaries.
                Some(Node::Dict(state)) if class.starts_with("__torch__.") || depth == 0 => {
                    self.module(path, &class, state, depth)
                }
                _ => {
                    self.opaque(path, class);
                    Ok(())
                }
            },
        }
    }

    /// The tensors of a whole network, by the names that its state dictionary would have.
    fn module(
        &mut self,
        path: Path<'_>,
        class: &str,
        state: &[(Id, Id)],
        depth: usize,
    ) -> Result<(), String> {
        if !self.enters(path, depth)? {
            return Ok(());
        }
        let below = |key: &str| match path.name {
            "" => key.to_owned(),
            name => format!("{name}.{key}"),
        };
        let graph = self.graph;
        let script = class.starts_with("__torch__.");
        for (key, value) in state {
            self.count(1)?;
            let Some(key) = graph.text(*key) else { continue };
            match (&*key, graph.node(*value)) {
                ("_parameters" | "_buffers" | "_modules", Node::Dict(parts)) if !script => {
                    self.parts(path, parts, depth)?;
                }
                (_, Node::Object(_)) if script => {
                    let name = below(&key);
                    self.visit(Path { name: &name, ..path }, *value, depth + 1)?;
                }
                _ => {}
            }
        }
        if depth == 0 && self.found.entries.is_empty() {
            self.opaque(path, class.to_owned());
        }
        Ok(())
    }

    /// Parameters, buffers or parts of a network.
    fn parts(&mut self, path: Path<'_>, parts: &[(Id, Id)], depth: usize) -> Result<(), String> {
        for (key, value) in parts {
            self.count(1)?;
            let Some(key) = self.graph.text(*key) else { continue };
            let name = if path.name.is_empty() {
                key.into_owned()
            } else {
                format!("{}.{key}", path.name)
            };
            let path = Path { name: &name, ..path };
            let Node::Object(object) = self.graph.node(*value) else { continue };
            match object.state.map(|state| self.graph.node(state)) {
                Some(Node::Dict(state)) => {
                    let class = self.graph.global(object.class).unwrap_or_default();
                    self.module(path, &class, state, depth + 1)?;
                }
                _ => self.visit(path, *value, depth + 1)?,
            }
        }
        Ok(())
    }

    /// A tensor of torch's from the arguments of what would make it.
    fn tensor(&self, path: Path<'_>, arguments: &[Id], typed: bool) -> Result<Entry, String> {
        let graph = self.graph;
        let [storage, offset, shape, strides, rest @ ..] = arguments else {
            return Err("it says too little".to_owned());
        };
        let reference = reference(graph, *storage).ok_or("its storage is of no known type")?;
        let number = match (reference.number, typed) {
            (None, true) => {
                let dtype = rest.get(2).and_then(|dtype| graph.global(*dtype));
                dtype.and_then(|dtype| number(dtype.strip_prefix("torch.")?))
            }
            (number, false) => number,
            _ => None,
        };
        let number = number.ok_or("its numbers are of no known type")?;
        let sizes = |id: Id, what: &str| -> Result<Vec<usize>, String> {
            // `torch.Size` is a tuple of another type.
            let id = match graph.node(id) {
                Node::Object(object) => {
                    graph.items(object.arguments).and_then(|items| items.first().copied())
                }
                _ => Some(id),
            };
            let sizes = id.and_then(|id| graph.items(id)).ok_or_else(|| format!("{what} none"))?;
            if sizes.len() > MOST_DIMENSIONS {
                return Err(format!("{what} of {} dimensions", sizes.len()));
            }
            let sizes: Option<Vec<usize>> = sizes.iter().map(|size| graph.size(*size)).collect();
            sizes.ok_or_else(|| format!("{what} none"))
        };
        let shape = sizes(*shape, "its shape is")?;
        let strides = sizes(*strides, "its strides are")?;
        let offset = graph.size(*offset).ok_or("its offset is none")?;
        let storage = (self.locate)(&reference)?;
        Ok(Entry {
            view: Some(View { offset, strides }),
            big_endian: self.big_endian,
            group: path.group.to_owned(),
            ..Entry::plain(path.name, number, shape, storage)
        })
    }

    /// A numpy array, whose numbers lie within the pickle.
    fn array(
        &mut self,
        path: Path<'_>,
        (kind, item_bytes, big_endian): (char, usize, bool),
        shape: &[usize],
        storage: Storage,
    ) -> Result<(), String> {
        let number = match (kind, item_bytes) {
            ('f', 8) => Number::F64,
            ('f', 4) => Number::F32,
            ('f', 2) => Number::F16,
            ('i', 8) => Number::I64,
            ('i', 4) => Number::I32,
            ('i', 2) => Number::I16,
            ('i', 1) => Number::I8,
            ('u', 8) => Number::U64,
            ('u', 4) => Number::U32,
            ('u', 2) => Number::U16,
            ('u', 1) => Number::U8,
            ('b', 1) => Number::Bool,
            (kind, bytes) => {
                let text = format!("a numpy array of {kind}{bytes}");
                self.opaque(path, text);
                return Ok(());
            }
        };
        self.keep(Entry {
            group: path.group.to_owned(),
            big_endian,
            ..Entry::plain(path.name, number, shape.to_vec(), storage)
        })
    }

    fn keep(&mut self, entry: Entry) -> Result<(), String> {
        self.names += entry.group.len() + entry.name.len();
        if self.names > MOST_NAMES || self.found.entries.len() == super::MOST_TENSORS {
            let (count, most) = (self.found.entries.len(), super::MOST_TENSORS);
            return Err(format!("{count} tensors and more; at most {most} are read"));
        }
        self.found.entries.push(entry);
        Ok(())
    }

    fn note(&mut self, path: Path<'_>, text: String) {
        if self.found.notes.len() < MOST_NOTES && path.group.len() + path.name.len() < LONGEST_NOTE
        {
            self.found.notes.insert(path.joined(), text);
        }
    }

    fn opaque(&mut self, path: Path<'_>, mut what: String) {
        if self.found.opaque.len() < MOST_NOTES && path.group.len() + path.name.len() < LONGEST_NOTE
        {
            if what.len() > LONGEST_NOTE {
                what = what.chars().take(LONGEST_NOTE / 4).collect();
            }
            self.found.opaque.insert(path.joined(), what);
        }
    }
}

/// A value that fits into a line.
fn short(value: &Value<'_>) -> Option<String> {
    Some(match value {
        Value::None => "none".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        _ => {
            let text = value.text()?;
            if text.len() > LONGEST_NOTE {
                return None;
            }
            text.into_owned()
        }
    })
}
