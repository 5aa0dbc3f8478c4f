//! Communication status blocks: ring pointers that a guest shares with its host.
//!
//! Two arrays in the program's own memory, one 64-byte entry a bound ring,
//! transmit rings first. All fields are `u32`.

/// Size and alignment of an entry in either array, bytes.
pub const SIZE: usize = 64;

/// `struct nm_csb_atok`: written by the application.
pub mod atok {
    /// The ring's `head`.
    pub const HEAD: usize = 0;
    /// The ring's `cur`.
    pub const CUR: usize = 4;
    /// Non-zero: the application sleeps and wants a notification.
    pub const APPL_NEED_KICK: usize = 8;
    /// Flags for the next sync.
    pub const SYNC_FLAGS: usize = 12;
}

/// `struct nm_csb_ktoa`: written by the system.
pub mod ktoa {
    /// How far the system consumed.
    pub const HWCUR: usize = 0;
    /// What the application sees as `tail`.
    pub const HWTAIL: usize = 4;
    /// Non-zero: the system sleeps and wants a notification.
    pub const KERN_NEED_KICK: usize = 8;
}
