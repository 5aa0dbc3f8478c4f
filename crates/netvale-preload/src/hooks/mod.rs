//! The C functions that we stand in front of, by family.
//!
//! Each takes one look at what its descriptor or path is and passes on what is
//! not ours. They keep the contract of the function whose name they have;
//! none of them unwinds.

pub mod epoll;
pub mod fd;
pub mod io;
pub mod mem;
pub mod path;
pub mod poll;

/// Takes in the registrations that this process was started with.
extern "C" fn start() {
    crate::rules::note_stderr();
    crate::adopt::scan();
}

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;
