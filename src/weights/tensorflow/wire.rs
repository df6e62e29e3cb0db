//! The messages of a tensor bundle (TensorFlow's `tensor_bundle.proto`, `tensor_shape.proto`, `versions.proto`) and of the
//! object graph in it (`trackable_object_graph.proto`), as far as they are read here.

use prost::Message;

/// What the key "" holds.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Header {
    #[prost(int32, tag = "1")]
    pub(super) num_shards: i32,
    /// 0 is little, 1 is big.
    #[prost(int32, tag = "2")]
    pub(super) endianness: i32,
    #[prost(message, optional, tag = "3")]
    pub(super) version: Option<Version>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Version {
    #[prost(int32, tag = "1")]
    pub(super) producer: i32,
    #[prost(int32, tag = "2")]
    pub(super) min_consumer: i32,
}

/// What every other key holds.
#[derive(Clone, PartialEq, Message)]
pub(super) struct EntryMessage {
    #[prost(int32, tag = "1")]
    pub(super) dtype: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) shape: Option<Shape>,
    #[prost(int32, tag = "3")]
    pub(super) shard_id: i32,
    #[prost(int64, tag = "4")]
    pub(super) offset: i64,
    #[prost(int64, tag = "5")]
    pub(super) size: i64,
    #[prost(fixed32, tag = "6")]
    pub(super) crc32c: u32,
    /// Not empty where a variable is cut into parts.
    #[prost(message, repeated, tag = "7")]
    pub(super) slices: Vec<Slice>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Shape {
    #[prost(message, repeated, tag = "2")]
    pub(super) dim: Vec<Dimension>,
    #[prost(bool, tag = "3")]
    pub(super) unknown_rank: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Dimension {
    #[prost(int64, tag = "1")]
    pub(super) size: i64,
}

/// A part of a variable; where it lies does not matter, for it is refused.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Slice {}

/// What `_CHECKPOINTABLE_OBJECT_GRAPH` holds.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ObjectGraph {
    #[prost(message, repeated, tag = "1")]
    pub(super) nodes: Vec<Object>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Object {
    #[prost(message, repeated, tag = "2")]
    pub(super) attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Attribute {
    #[prost(string, tag = "2")]
    pub(super) full_name: String,
    #[prost(string, tag = "3")]
    pub(super) checkpoint_key: String,
}
