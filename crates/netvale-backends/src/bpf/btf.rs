//! Where the kernel's own functions stand in its type information (BTF,
//! Documentation/bpf/btf.rst): programs call them by that number.

use std::path::Path;

/// Header: magic, version and flags, its length, and where types and names
/// are, counted from its end.
const MAGIC: u16 = 0xeb9f;
/// Bytes of a type without what belongs to its kind.
const TYPE: usize = 12;
const FUNCTION: u32 = 12;

/// The number of a kernel function that programs may call; `None` if this
/// kernel has none of that name, or does not say.
pub(crate) fn kernel_function(name: &str) -> Option<u32> {
    function(
        &std::fs::read(Path::new("/sys/kernel/btf/vmlinux")).ok()?,
        name,
    )
}

fn function(btf: &[u8], name: &str) -> Option<u32> {
    if btf.get(..2)? != MAGIC.to_ne_bytes() {
        return None;
    }
    let part = |at: usize| {
        let start = word(btf, 4)?.checked_add(word(btf, at)?)?;
        let end = start.checked_add(word(btf, at + 4)?)?;
        btf.get(start as usize..end as usize)
    };
    let (mut types, names) = (part(8)?, part(16)?);
    // Number 0 is void, which is not written down.
    let mut number = 1;
    while !types.is_empty() {
        let info = word(types, 4)?;
        let kind = info >> 24 & 0x1f;
        if kind == FUNCTION {
            let own = names.get(word(types, 0)? as usize..)?;
            let rest = own.strip_prefix(name.as_bytes());
            if rest.is_some_and(|rest| rest.first() == Some(&0)) {
                return Some(number);
            }
        }
        types = types.get(TYPE + extra(kind, (info & 0xffff) as usize)?..)?;
        number += 1;
    }
    None
}

/// Bytes that belong to a kind with so many members.
fn extra(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        // Integers, variables, declaration tags.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        // Structures, unions, sections, enumerations of 64 bits.
        4 | 5 | 15 | 19 => members * 12,
        // Enumerations, prototypes.
        6 | 13 => members * 8,
        // Pointers, names and qualifiers of other types, functions, floats.
        2 | 7..=12 | 16 | 18 => 0,
        // A newer kernel's: what comes after it cannot be told.
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind, members, offset of the name, words that belong to the kind.
    type Entry<'a> = (u32, u32, u32, &'a [u32]);

    fn btf(types: &[Entry<'_>], names: &str) -> Vec<u8> {
        let mut words = Vec::new();
        for (kind, members, name, rest) in types {
            words.extend([*name, kind << 24 | members, 0]);
            words.extend(*rest);
        }
        let types: Vec<u8> = words.iter().flat_map(|w: &u32| w.to_ne_bytes()).collect();
        let mut all = MAGIC.to_ne_bytes().to_vec();
        all.extend([1, 0]);
        let lens = [types.len(), names.len()].map(|n| u32::try_from(n).unwrap());
        for word in [24, 0, lens[0], lens[0], lens[1]] {
            all.extend(u32::to_ne_bytes(word));
        }
        all.extend(types);
        all.extend(names.bytes());
        all
    }

    #[test]
    fn functions_are_found_behind_all_kinds() {
        let names = "\0ab\0abc\0";
        let other = [9; 6];
        let all: [Entry<'_>; 7] = [
            (1, 0, 4, &other[..1]), // an integer of the wanted name
            (3, 0, 0, &other[..3]),
            (4, 2, 4, &other[..6]),
            (6, 3, 0, &other[..6]),
            (13, 1, 0, &other[..2]),
            (12, 0, 1, &[]), // its name begins the same
            (12, 0, 4, &[]),
        ];
        let whole = btf(&all, names);
        assert_eq!(function(&whole, "abc"), Some(7));
        assert_eq!(function(&whole, "ab"), Some(6));
        assert_eq!(function(&whole, "a"), None);
        assert_eq!(
            function(&btf(&[(31, 0, 0, &[]), all[6]], names), "abc"),
            None
        );
        for end in 0..whole.len() {
            assert_eq!(function(&whole[..end], "nothing"), None);
        }
    }

    #[test]
    fn this_kernel_has_functions() {
        if !Path::new("/sys/kernel/btf/vmlinux").exists() {
            println!("a kernel without type information");
            return;
        }
        assert!(kernel_function("vfs_read").is_some());
        assert_eq!(kernel_function("no such function"), None);
    }
}
