//! Which VMs, and what of them: paths into a VM object, `fields=`, filters in
//! the syntax of vmadm(8), and conditions to wait for. Pure.

mod fields;
mod filter;
mod path;

pub use fields::Fields;
pub use filter::{
    CONDITIONS_MAX, Condition, Filter, Search, ram_member, text_of, type_of,
};
pub use path::{Part, Path, is_member_name, split_list, split_once};
