//! Every struct, field and constant of the C headers has netmap's place and
//! value, and the one that the Rust side has.

use std::fmt::Write;
use std::mem::offset_of;

use crate::cc::{cc, run};
use netvale_testkit::TempDir;
use netvale_wire::abi::*;

/// A struct, its size, and where its fields are.
type Layout = (&'static str, usize, &'static [(&'static str, usize)]);

/// netmap's layouts on 64-bit machines.
#[rustfmt::skip]
const LAYOUTS: &[Layout] = &[
    ("netmap_slot", 16, &[("buf_idx", 0), ("len", 4), ("flags", 6), ("ptr", 8)]),
    ("netmap_ring", 256, &[("buf_ofs", 0), ("num_slots", 8), ("nr_buf_size", 12), ("ringid", 16), ("dir", 18), ("head", 20), ("cur", 24), ("tail", 28), ("flags", 32), ("ts", 40), ("offset_mask", 56), ("buf_align", 64), ("sem", 128), ("slot", 256)]),
    ("netmap_if", 56, &[("ni_name", 0), ("ni_version", 16), ("ni_flags", 20), ("ni_tx_rings", 24), ("ni_rx_rings", 28), ("ni_bufs_head", 32), ("ni_host_tx_rings", 36), ("ni_host_rx_rings", 40), ("ni_spare1", 44), ("ring_ofs", 56)]),
    ("nm_csb_atok", 64, &[("head", 0), ("cur", 4), ("appl_need_kick", 8), ("sync_flags", 12), ("pad", 16)]),
    ("nm_csb_ktoa", 64, &[("hwcur", 0), ("hwtail", 4), ("kern_need_kick", 8), ("pad", 12)]),
    ("nmreq", 60, &[("nr_name", 0), ("nr_version", 16), ("nr_offset", 20), ("nr_memsize", 24), ("nr_tx_slots", 28), ("nr_rx_slots", 32), ("nr_tx_rings", 36), ("nr_rx_rings", 38), ("nr_ringid", 40), ("nr_cmd", 42), ("nr_arg1", 44), ("nr_arg2", 46), ("nr_arg3", 48), ("nr_flags", 52), ("spare2", 56)]),
    ("nm_ifreq", 272, &[("nifr_name", 0), ("data", 16)]),
    ("nmreq_header", 88, &[("nr_version", 0), ("nr_reqtype", 2), ("nr_reserved", 4), ("nr_name", 8), ("nr_options", 72), ("nr_body", 80)]),
    ("nmreq_option", 24, &[("nro_next", 0), ("nro_reqtype", 8), ("nro_status", 12), ("nro_size", 16)]),
    ("nmreq_register", 56, &[("nr_offset", 0), ("nr_memsize", 8), ("nr_tx_slots", 16), ("nr_rx_slots", 20), ("nr_tx_rings", 24), ("nr_rx_rings", 26), ("nr_host_tx_rings", 28), ("nr_host_rx_rings", 30), ("nr_mem_id", 32), ("nr_ringid", 34), ("nr_mode", 36), ("nr_extra_bufs", 40), ("nr_flags", 48)]),
    ("nmreq_port_info_get", 32, &[("nr_memsize", 0), ("nr_tx_slots", 8), ("nr_rx_slots", 12), ("nr_tx_rings", 16), ("nr_rx_rings", 18), ("nr_host_tx_rings", 20), ("nr_host_rx_rings", 22), ("nr_mem_id", 24), ("pad", 26)]),
    ("nmreq_vale_attach", 64, &[("reg", 0), ("port_index", 56)]),
    ("nmreq_vale_detach", 8, &[("port_index", 0)]),
    ("nmreq_vale_list", 8, &[("nr_bridge_idx", 0), ("nr_port_idx", 4)]),
    ("nmreq_port_hdr", 8, &[("nr_hdr_len", 0)]),
    ("nmreq_vale_newif", 16, &[("nr_tx_slots", 0), ("nr_rx_slots", 4), ("nr_tx_rings", 8), ("nr_rx_rings", 10), ("nr_mem_id", 12)]),
    ("nmreq_vale_polling", 16, &[("nr_mode", 0), ("nr_first_cpu_id", 4), ("nr_num_polling_cpus", 8)]),
    ("nmreq_pools_info", 64, &[("nr_memsize", 0), ("nr_mem_id", 8), ("nr_if_pool_offset", 16), ("nr_if_pool_objtotal", 24), ("nr_if_pool_objsize", 28), ("nr_ring_pool_offset", 32), ("nr_ring_pool_objtotal", 40), ("nr_ring_pool_objsize", 44), ("nr_buf_pool_offset", 48), ("nr_buf_pool_objtotal", 56), ("nr_buf_pool_objsize", 60)]),
    ("nmreq_sync_kloop_start", 8, &[("sleep_us", 0)]),
    ("nmreq_opt_extmem", 96, &[("nro_opt", 0), ("nro_usrptr", 24), ("nro_info", 32)]),
    ("nmreq_opt_sync_kloop_eventfds", 24, &[("nro_opt", 0), ("eventfds", 24)]),
    ("nmreq_opt_csb", 40, &[("nro_opt", 0), ("csb_atok", 24), ("csb_ktoa", 32)]),
    ("nmreq_opt_sync_kloop_mode", 32, &[("nro_opt", 0), ("mode", 24)]),
    ("nmreq_opt_offsets", 56, &[("nro_opt", 0), ("nro_max_offset", 24), ("nro_initial_offset", 32), ("nro_offset_bits", 40), ("nro_tx_align", 44), ("nro_min_gap", 48)]),
    ("nm_desc", 760, &[("self", 0), ("fd", 8), ("mem", 16), ("memsize", 24), ("done_mmap", 32), ("nifp", 40), ("first_tx_ring", 48), ("last_tx_ring", 50), ("cur_tx_ring", 52), ("first_rx_ring", 54), ("last_rx_ring", 56), ("cur_rx_ring", 58), ("req", 60), ("hdr", 120), ("some_ring", 176), ("buf_start", 184), ("buf_end", 192), ("snaplen", 200), ("promisc", 204), ("to_ms", 208), ("errbuf", 216), ("if_flags", 224), ("if_reqcap", 228), ("if_curcap", 232), ("st", 236), ("msg", 248)]),
    ("nm_pkthdr", 56, &[("ts", 0), ("caplen", 16), ("len", 20), ("flags", 24), ("d", 32), ("slot", 40), ("buf", 48)]),
    ("nmport_d", 216, &[("hdr", 0), ("reg", 88), ("mem", 144), ("ctx", 152), ("register_done", 160), ("mmap_done", 164), ("extmem", 168), ("fd", 176), ("nifp", 184), ("first_tx_ring", 192), ("last_tx_ring", 194), ("first_rx_ring", 196), ("last_rx_ring", 198), ("cur_tx_ring", 200), ("cur_rx_ring", 202), ("clist", 208)]),
    ("nmctx", 48, &[("verbose", 0), ("error", 8), ("malloc", 16), ("free", 24), ("lock", 32), ("mem_descs", 40)]),
    ("nmem_d", 48, &[("mem_id", 0), ("refcount", 4), ("mem", 8), ("size", 16), ("is_extmem", 24), ("next", 32), ("prev", 40)]),
    ("nmreq_opt_key", 16, &[("key", 0), ("id", 8), ("flags", 12)]),
    ("nmreq_opt_parser", 304, &[("prefix", 0), ("parse", 8), ("default_key", 16), ("nr_keys", 20), ("flags", 24), ("next", 32), ("keys", 40)]),
    ("nmreq_parse_ctx", 144, &[("ctx", 0), ("token", 8), ("keys", 16)]),
];

/// The layouts of a type of `netvale_wire`.
macro_rules! wire {
    ($($c:literal: $ty:ty { $($field:ident),* })*) => {
        vec![$(($c, size_of::<$ty>(), vec![$((stringify!($field), offset_of!($ty, $field))),*])),*]
    };
}

#[rustfmt::skip]
fn wire_layouts() -> Vec<(&'static str, usize, Vec<(&'static str, usize)>)> {
    wire! {
        "nmreq": NmReq { nr_name, nr_version, nr_offset, nr_memsize, nr_tx_slots, nr_rx_slots, nr_tx_rings, nr_rx_rings, nr_ringid, nr_cmd, nr_arg1, nr_arg2, nr_arg3, nr_flags, spare2 }
        "nm_ifreq": NmIfreq { nifr_name, data }
        "nmreq_header": NmReqHeader { nr_version, nr_reqtype, nr_reserved, nr_name, nr_options, nr_body }
        "nmreq_option": NmReqOption { nro_next, nro_reqtype, nro_status, nro_size }
        "nmreq_register": NmReqRegister { nr_offset, nr_memsize, nr_tx_slots, nr_rx_slots, nr_tx_rings, nr_rx_rings, nr_host_tx_rings, nr_host_rx_rings, nr_mem_id, nr_ringid, nr_mode, nr_extra_bufs, nr_flags }
        "nmreq_port_info_get": NmReqPortInfoGet { nr_memsize, nr_tx_slots, nr_rx_slots, nr_tx_rings, nr_rx_rings, nr_host_tx_rings, nr_host_rx_rings, nr_mem_id, pad }
        "nmreq_vale_attach": NmReqValeAttach { reg, port_index }
        "nmreq_vale_detach": NmReqValeDetach { port_index }
        "nmreq_vale_list": NmReqValeList { nr_bridge_idx, nr_port_idx }
        "nmreq_port_hdr": NmReqPortHdr { nr_hdr_len }
        "nmreq_vale_newif": NmReqValeNewif { nr_tx_slots, nr_rx_slots, nr_tx_rings, nr_rx_rings, nr_mem_id }
        "nmreq_vale_polling": NmReqValePolling { nr_mode, nr_first_cpu_id, nr_num_polling_cpus }
        "nmreq_pools_info": NmReqPoolsInfo { nr_memsize, nr_mem_id, nr_if_pool_offset, nr_if_pool_objtotal, nr_if_pool_objsize, nr_ring_pool_offset, nr_ring_pool_objtotal, nr_ring_pool_objsize, nr_buf_pool_offset, nr_buf_pool_objtotal, nr_buf_pool_objsize }
        "nmreq_sync_kloop_start": NmReqSyncKloopStart { sleep_us }
        "nmreq_opt_extmem": NmReqOptExtmem { nro_opt, nro_usrptr, nro_info }
        "nmreq_opt_csb": NmReqOptCsb { nro_opt, csb_atok, csb_ktoa }
        "nmreq_opt_sync_kloop_mode": NmReqOptSyncKloopMode { nro_opt, mode }
        "nmreq_opt_offsets": NmReqOptOffsets { nro_opt, nro_max_offset, nro_initial_offset, nro_offset_bits, nro_tx_align, nro_min_gap }
    }
}

/// Layouts of shared memory, which `netvale_wire` has as offsets only.
const SHARED: &[Layout] = &[
    (
        "netmap_slot",
        slot::SIZE,
        &[
            ("buf_idx", slot::BUF_IDX),
            ("len", slot::LEN),
            ("flags", slot::FLAGS),
            ("ptr", slot::PTR),
        ],
    ),
    (
        "netmap_ring",
        ring::SIZE,
        &[
            ("buf_ofs", ring::BUF_OFS),
            ("num_slots", ring::NUM_SLOTS),
            ("nr_buf_size", ring::NR_BUF_SIZE),
            ("ringid", ring::RINGID),
            ("dir", ring::DIR),
            ("head", ring::HEAD),
            ("cur", ring::CUR),
            ("tail", ring::TAIL),
            ("flags", ring::FLAGS),
            ("ts", ring::TS_SEC),
            ("offset_mask", ring::OFFSET_MASK),
            ("buf_align", ring::BUF_ALIGN),
            ("sem", ring::SEM),
            ("slot", ring::SLOTS),
        ],
    ),
    (
        "netmap_if",
        nif::SIZE,
        &[
            ("ni_name", nif::NAME),
            ("ni_version", nif::VERSION),
            ("ni_flags", nif::FLAGS),
            ("ni_tx_rings", nif::TX_RINGS),
            ("ni_rx_rings", nif::RX_RINGS),
            ("ni_bufs_head", nif::BUFS_HEAD),
            ("ni_host_tx_rings", nif::HOST_TX_RINGS),
            ("ni_host_rx_rings", nif::HOST_RX_RINGS),
            ("ni_spare1", 44),
            ("ring_ofs", nif::RING_OFS),
        ],
    ),
    (
        "nm_csb_atok",
        csb::SIZE,
        &[
            ("head", csb::atok::HEAD),
            ("cur", csb::atok::CUR),
            ("appl_need_kick", csb::atok::APPL_NEED_KICK),
            ("sync_flags", csb::atok::SYNC_FLAGS),
            ("pad", 16),
        ],
    ),
    (
        "nm_csb_ktoa",
        csb::SIZE,
        &[
            ("hwcur", csb::ktoa::HWCUR),
            ("hwtail", csb::ktoa::HWTAIL),
            ("kern_need_kick", csb::ktoa::KERN_NEED_KICK),
            ("pad", 12),
        ],
    ),
];

/// A constant expression in C, netmap's value, and that of `netvale_wire`,
/// which is the same number again where it has none.
#[rustfmt::skip]
const VALUES: &[(&str, u64, u64)] = &[
    ("NIOCGINFO", 0xc03c_6991, NIOCGINFO as u64),
    ("NIOCREGIF", 0xc03c_6992, NIOCREGIF as u64),
    ("NIOCTXSYNC", 0x6994, NIOCTXSYNC as u64),
    ("NIOCRXSYNC", 0x6995, NIOCRXSYNC as u64),
    ("NIOCCONFIG", 0xc110_6996, NIOCCONFIG as u64),
    ("NIOCCTRL", 0xc058_6997, NIOCCTRL as u64),
    ("NETMAP_API", 14, NETMAP_API as u64),
    ("NETMAP_MIN_API", 14, NETMAP_MIN_API as u64),
    ("NETMAP_MAX_API", 15, NETMAP_MAX_API as u64),
    ("NETMAP_REQ_MAXSIZE", 4096, NETMAP_REQ_MAXSIZE as u64),
    ("NETMAP_REQ_IFNAMSIZ", 64, NETMAP_REQ_IFNAMSIZ as u64),
    ("IFNAMSIZ", 16, IFNAMSIZ as u64),
    ("NETMAP_MAX_FRAGS", 64, NETMAP_MAX_FRAGS as u64),
    ("NM_CACHE_ALIGN", 128, NM_CACHE_ALIGN as u64),
    ("NETMAP_REQ_REGISTER", 1, reqtype::REGISTER as u64),
    ("NETMAP_REQ_PORT_INFO_GET", 2, reqtype::PORT_INFO_GET as u64),
    ("NETMAP_REQ_VALE_ATTACH", 3, reqtype::VALE_ATTACH as u64),
    ("NETMAP_REQ_VALE_DETACH", 4, reqtype::VALE_DETACH as u64),
    ("NETMAP_REQ_VALE_LIST", 5, reqtype::VALE_LIST as u64),
    ("NETMAP_REQ_PORT_HDR_SET", 6, reqtype::PORT_HDR_SET as u64),
    ("NETMAP_REQ_PORT_HDR_GET", 7, reqtype::PORT_HDR_GET as u64),
    ("NETMAP_REQ_VALE_NEWIF", 8, reqtype::VALE_NEWIF as u64),
    ("NETMAP_REQ_VALE_DELIF", 9, reqtype::VALE_DELIF as u64),
    ("NETMAP_REQ_VALE_POLLING_ENABLE", 10, reqtype::VALE_POLLING_ENABLE as u64),
    ("NETMAP_REQ_VALE_POLLING_DISABLE", 11, reqtype::VALE_POLLING_DISABLE as u64),
    ("NETMAP_REQ_POOLS_INFO_GET", 12, reqtype::POOLS_INFO_GET as u64),
    ("NETMAP_REQ_SYNC_KLOOP_START", 13, reqtype::SYNC_KLOOP_START as u64),
    ("NETMAP_REQ_SYNC_KLOOP_STOP", 14, reqtype::SYNC_KLOOP_STOP as u64),
    ("NETMAP_REQ_CSB_ENABLE", 15, reqtype::CSB_ENABLE as u64),
    ("NETMAP_REQ_OPT_EXTMEM", 1, opttype::EXTMEM as u64),
    ("NETMAP_REQ_OPT_SYNC_KLOOP_EVENTFDS", 2, opttype::SYNC_KLOOP_EVENTFDS as u64),
    ("NETMAP_REQ_OPT_CSB", 3, opttype::CSB as u64),
    ("NETMAP_REQ_OPT_SYNC_KLOOP_MODE", 4, opttype::SYNC_KLOOP_MODE as u64),
    ("NETMAP_REQ_OPT_OFFSETS", 5, opttype::OFFSETS as u64),
    ("NETMAP_REQ_OPT_MAX", 6, opttype::MAX as u64),
    ("NR_REG_DEFAULT", 0, mode::DEFAULT as u64),
    ("NR_REG_ALL_NIC", 1, mode::ALL_NIC as u64),
    ("NR_REG_SW", 2, mode::SW as u64),
    ("NR_REG_NIC_SW", 3, mode::NIC_SW as u64),
    ("NR_REG_ONE_NIC", 4, mode::ONE_NIC as u64),
    ("NR_REG_PIPE_MASTER", 5, mode::PIPE_MASTER as u64),
    ("NR_REG_PIPE_SLAVE", 6, mode::PIPE_SLAVE as u64),
    ("NR_REG_NULL", 7, mode::NULL as u64),
    ("NR_REG_ONE_SW", 8, mode::ONE_SW as u64),
    ("NR_MONITOR_TX", 0x100, regflags::MONITOR_TX),
    ("NR_MONITOR_RX", 0x200, regflags::MONITOR_RX),
    ("NR_ZCOPY_MON", 0x400, regflags::ZCOPY_MON),
    ("NR_EXCLUSIVE", 0x800, regflags::EXCLUSIVE),
    ("NR_RX_RINGS_ONLY", 0x2000, regflags::RX_RINGS_ONLY),
    ("NR_TX_RINGS_ONLY", 0x4000, regflags::TX_RINGS_ONLY),
    ("NR_ACCEPT_VNET_HDR", 0x8000, regflags::ACCEPT_VNET_HDR),
    ("NR_DO_RX_POLL", 0x1_0000, regflags::DO_RX_POLL),
    ("NR_NO_TX_POLL", 0x2_0000, regflags::NO_TX_POLL),
    ("NETMAP_HW_RING", 0x4000, legacy::RINGID_HW as u64),
    ("NETMAP_SW_RING", 0x2000, legacy::RINGID_SW as u64),
    ("NETMAP_RING_MASK", 0x0fff, NETMAP_RING_MASK as u64),
    ("NETMAP_NO_TX_POLL", 0x1000, legacy::RINGID_NO_TX_POLL as u64),
    ("NETMAP_DO_RX_POLL", 0x8000, legacy::RINGID_DO_RX_POLL as u64),
    ("NR_REG_MASK", 0xf, legacy::REG_MASK as u64),
    ("NETMAP_BDG_HOST", 1, legacy::BDG_HOST as u64),
    ("NETMAP_BDG_ATTACH", 1, legacy::cmd::BDG_ATTACH as u64),
    ("NETMAP_BDG_DETACH", 2, legacy::cmd::BDG_DETACH as u64),
    ("NETMAP_BDG_REGOPS", 3, legacy::cmd::BDG_REGOPS as u64),
    ("NETMAP_BDG_LIST", 4, legacy::cmd::BDG_LIST as u64),
    ("NETMAP_BDG_VNET_HDR", 5, legacy::cmd::BDG_VNET_HDR as u64),
    ("NETMAP_BDG_NEWIF", 6, legacy::cmd::BDG_NEWIF as u64),
    ("NETMAP_BDG_DELIF", 7, legacy::cmd::BDG_DELIF as u64),
    ("NETMAP_PT_HOST_CREATE", 8, legacy::cmd::PT_HOST_CREATE as u64),
    ("NETMAP_PT_HOST_DELETE", 9, legacy::cmd::PT_HOST_DELETE as u64),
    ("NETMAP_BDG_POLLING_ON", 10, legacy::cmd::BDG_POLLING_ON as u64),
    ("NETMAP_BDG_POLLING_OFF", 11, legacy::cmd::BDG_POLLING_OFF as u64),
    ("NETMAP_VNET_HDR_GET", 12, legacy::cmd::VNET_HDR_GET as u64),
    ("NETMAP_BDG_OFFSET", 5, legacy::cmd::BDG_VNET_HDR as u64),
    ("NS_BUF_CHANGED", 0x1, slot::BUF_CHANGED as u64),
    ("NS_REPORT", 0x2, slot::REPORT as u64),
    ("NS_FORWARD", 0x4, slot::FORWARD as u64),
    ("NS_NO_LEARN", 0x8, slot::NO_LEARN as u64),
    ("NS_INDIRECT", 0x10, slot::INDIRECT as u64),
    ("NS_MOREFRAG", 0x20, slot::MOREFRAG as u64),
    ("NS_TXMON", 0x40, slot::TXMON as u64),
    ("NS_PORT_SHIFT", 8, slot::PORT_SHIFT as u64),
    ("NS_PORT_MASK", 0xff00, slot::PORT_MASK as u64),
    ("NR_TIMESTAMP", 2, ring::TIMESTAMP as u64),
    ("NR_FORWARD", 4, ring::FORWARD as u64),
    ("NI_PRIV_MEM", 1, nif::PRIV_MEM as u64),
    ("NETMAP_POLLING_MODE_SINGLE_CPU", 1, polling::SINGLE_CPU as u64),
    ("NETMAP_POLLING_MODE_MULTI_CPU", 2, polling::MULTI_CPU as u64),
    ("NM_OPT_SYNC_KLOOP_DIRECT_TX", 1, 1),
    ("NM_OPT_SYNC_KLOOP_DIRECT_RX", 2, 2),
    ("NM_IFRDATA_LEN", 256, 256),
    ("NM_OPEN_NO_MMAP", 262144, 262144),
    ("NM_OPEN_IFNAME", 524288, 524288),
    ("NM_OPEN_ARG1", 1048576, 1048576),
    ("NM_OPEN_ARG2", 2097152, 2097152),
    ("NM_OPEN_ARG3", 4194304, 4194304),
    ("NM_OPEN_RING_CFG", 8388608, 8388608),
    ("NM_MORE_PKTS", 1, 1),
    ("NM_ERRBUF_SIZE", 512, 512),
    ("NMREQ_OPT_MAXKEYS", 16, 16),
    ("NMREQ_OPTK_ALLOWEMPTY", 1, 1),
    ("NMREQ_OPTK_MUSTSET", 2, 2),
    ("NMREQ_OPTK_DEFAULT", 4, 4),
    ("NMREQ_OPTF_DISABLED", 1, 1),
    ("NMREQ_OPTF_ALLOWEMPTY", 2, 2),
    ("PTNETMAP_PCI_VENDOR_ID", 6966, 6966),
    ("PTNETMAP_PCI_DEVICE_ID", 12, 12),
    ("PTNETMAP_PCI_NETIF_ID", 13, 13),
    ("PTNET_MDEV_IO_MEMSIZE_LO", 0, 0),
    ("PTNET_MDEV_IO_MEMSIZE_HI", 4, 4),
    ("PTNET_MDEV_IO_MEMID", 8, 8),
    ("PTNET_MDEV_IO_IF_POOL_OFS", 64, 64),
    ("PTNET_MDEV_IO_BUF_POOL_OBJSZ", 96, 96),
    ("PTNET_MDEV_IO_END", 100, 100),
    ("PTNET_IO_PTFEAT", 0, 0),
    ("PTNET_IO_PTCTL", 4, 4),
    ("PTNET_IO_MAC_LO", 8, 8),
    ("PTNET_IO_MAC_HI", 12, 12),
    ("PTNET_IO_CSBBAH", 16, 16),
    ("PTNET_IO_CSBBAL", 20, 20),
    ("PTNET_IO_NIFP_OFS", 24, 24),
    ("PTNET_IO_NUM_TX_RINGS", 28, 28),
    ("PTNET_IO_NUM_RX_RINGS", 32, 32),
    ("PTNET_IO_NUM_TX_SLOTS", 36, 36),
    ("PTNET_IO_NUM_RX_SLOTS", 40, 40),
    ("PTNET_IO_VNET_HDR_LEN", 44, 44),
    ("PTNET_IO_HOSTMEMID", 48, 48),
    ("PTNET_IO_CSB_GH_BAH", 52, 52),
    ("PTNET_IO_CSB_GH_BAL", 56, 56),
    ("PTNET_IO_CSB_HG_BAH", 60, 60),
    ("PTNET_IO_CSB_HG_BAL", 64, 64),
    ("PTNET_IO_END", 68, 68),
    ("PTNET_IO_KICK_BASE", 128, 128),
    ("PTNET_IO_MASK", 255, 255),
    ("PTNETMAP_F_VNET_HDR", 1, 1),
    ("PTNETMAP_PTCTL_CREATE", 1, 1),
    ("PTNETMAP_PTCTL_DELETE", 2, 2),
];

/// Asks the C compiler.
fn ask(expressions: &[String]) -> Vec<u64> {
    let dir = TempDir::new();
    let mut source = String::from(
        "#include <stdio.h>\n#include <stddef.h>\n#define NETMAP_WITH_LIBS\n\
         #include <netvale.h>\n#include <net/netmap_virt.h>\nint main(void)\n{\n",
    );
    for expression in expressions {
        let number = format!("(unsigned long long)({expression})");
        writeln!(source, "\tprintf(\"%llu\\n\", {number});").unwrap();
    }
    source.push_str("\treturn 0;\n}\n");
    let (file, program) = (dir.path().join("ask.c"), dir.path().join("ask"));
    std::fs::write(&file, source).unwrap();
    run(cc()
        .args(["-Wall", "-Werror", "-o"])
        .arg(&program)
        .arg(&file));
    let answer = run(&mut std::process::Command::new(&program));
    answer.lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
#[cfg(target_pointer_width = "64")]
fn structs_have_netmaps_layout() {
    let mut expressions = Vec::new();
    let mut expected = Vec::new();
    for (name, size, fields) in LAYOUTS {
        expressions.push(format!("sizeof(struct {name})"));
        expected.push(*size as u64);
        for (field, at) in *fields {
            expressions.push(format!("offsetof(struct {name}, {field})"));
            expected.push(*at as u64);
        }
    }
    let found = ask(&expressions);
    assert_eq!(found.len(), expected.len());
    for ((expression, found), expected) in expressions.iter().zip(found).zip(expected) {
        assert_eq!(found, expected, "{expression}");
    }
    assert_eq!(ask(&["_Alignof(struct netmap_ring)".into()]), [128]);
    assert_eq!(ask(&["_Alignof(struct nmreq)".into()]), [4]);
}

#[test]
fn the_rust_side_has_the_same_layouts() {
    let of = |name: &str| LAYOUTS.iter().find(|layout| layout.0 == name).unwrap();
    for (name, size, fields) in wire_layouts() {
        assert_eq!((name, size, fields.as_slice()), *of(name));
    }
    for shared in SHARED {
        assert_eq!(shared, of(shared.0));
    }
}

#[test]
fn constants_have_netmaps_values() {
    let expressions: Vec<String> = VALUES.iter().map(|value| value.0.to_owned()).collect();
    let found = ask(&expressions);
    assert_eq!(found.len(), VALUES.len());
    for ((name, netmap, wire), found) in VALUES.iter().zip(found) {
        assert_eq!(found, *netmap, "{name}");
        assert_eq!(wire, netmap, "{name} in netvale_wire");
    }
    assert_eq!(
        ask(&["sizeof(NM_BDG_NAME)".into()]),
        [1 + NM_BDG_NAME.len() as u64]
    );
}
