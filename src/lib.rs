//! Learning visual representations without labels.
//!
//! The modules, in the order in which data flows; each may use only those before it:
//! [`data`] → [`augment`] → [`model`] → [`weights`] → [`loss`] → [`plugin`] → [`method`] → [`train`] → [`cluster`] →
//! [`evaluate`] → [`analyze`] → [`report`] → [`recipe`] → [`experiment`].
//! Below all of them lie [`error`], [`shape`] and [`random`].

pub mod analyze;
pub mod augment;
pub mod cluster;
pub mod data;
pub mod error;
pub mod evaluate;
pub mod experiment;
pub mod ffi;
pub mod files;
pub mod loss;
pub mod machine;
pub mod memory;
pub mod method;
pub mod model;
pub mod overrides;
pub mod plugin;
pub mod random;
pub mod recipe;
pub mod report;
pub mod rows;
pub mod shape;
pub mod train;
pub mod weights;
