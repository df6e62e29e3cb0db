//! Files of weights, ours and other people's: read without ever executing anything, written under the names that others
//! expect.

pub mod simclr_tf;
pub mod tensorflow;
