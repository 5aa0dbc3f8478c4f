/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * netmap's binary interface, API version 14: what programs and the system
 * share in memory, and the requests they make with ioctl().
 *
 * Names, layouts and values are those of netmap, so that its programs compile
 * and run unchanged. Programs include <net/netmap_user.h>, which includes this
 * file. netmap(4) explains the concepts.
 */
#ifndef _NET_NETMAP_H_
#define _NET_NETMAP_H_

#include <stdint.h>
#include <sys/types.h>
#include <sys/time.h>	/* struct timeval */
#include <sys/ioctl.h>	/* _IOWR */

/* Version that requests carry in nr_version, and the range that is accepted. */
#define NETMAP_API	14
#define NETMAP_MIN_API	14
#define NETMAP_MAX_API	15

/* Alignment of rings, bytes. */
#define NM_CACHE_ALIGN	128

/* Size of an interface name with its NUL, as IFNAMSIZ of <net/if.h>. */
#define NM_IFNAMSIZ	16

/*
 * Fields that programs only read are const. C++ wants a constructor for such
 * structs, so there they are not.
 */
#ifdef __cplusplus
#define NM_CONST
#else
#define NM_CONST	const
#endif

/* ------------------------------------------------------------------------ */
/* Shared memory: slots, rings, interfaces                                   */
/* ------------------------------------------------------------------------ */

/* One descriptor of a ring. */
struct netmap_slot {
	uint32_t buf_idx;	/* buffer, see NETMAP_BUF() */
	uint16_t len;		/* bytes of data in it */
	uint16_t flags;		/* NS_* */
	uint64_t ptr;		/* address (NS_INDIRECT), or offset of the data */
};

/* The program put another buffer into the slot. */
#define NS_BUF_CHANGED	0x0001
/* Report it when the transmission of this slot is complete. */
#define NS_REPORT	0x0002
/* Received: pass it on to the other side, host or NIC, when released. */
#define NS_FORWARD	0x0004
/* Not to be learned from. Has no effect. */
#define NS_NO_LEARN	0x0008
/* Transmit, switch ports: the data are at ptr, in the sender's memory. */
#define NS_INDIRECT	0x0010
/* The packet goes on in the next slot. */
#define NS_MOREFRAG	0x0020
/* In a monitor: the packet was transmitted, not received. */
#define NS_TXMON	0x0040

/* The high byte: destination port of a packet to send. Has no effect. */
#define NS_PORT_SHIFT	8
#define NS_PORT_MASK	(0xff << NS_PORT_SHIFT)
/* The high byte of a received slot: how many slots the packet has. */
#define NS_RFRAGS(_slot)	((((_slot)->flags) >> NS_PORT_SHIFT) & 0xff)

/* Most slots that a packet can have. */
#define NETMAP_MAX_FRAGS	64

/*
 * A ring. The program owns the slots from head up to, but not including, tail;
 * the system owns the others. The program gives slots away by advancing head,
 * and says with cur from where on it waits for more.
 */
struct netmap_ring {
	NM_CONST int64_t  buf_ofs;	/* from here to buffer 0, bytes */
	NM_CONST uint32_t num_slots;
	NM_CONST uint32_t nr_buf_size;	/* bytes */
	NM_CONST uint16_t ringid;	/* number; host rings come after the others */
	NM_CONST uint16_t dir;		/* 0: receive, 1: transmit */

	uint32_t head;			/* program: first slot it owns */
	uint32_t cur;			/* program: wake-up point */
	uint32_t tail;			/* system: first slot it owns */

	uint32_t flags;			/* program: NR_TIMESTAMP, NR_FORWARD */
	struct timeval ts;		/* system: time of the last receive sync */

	NM_CONST uint64_t offset_mask;	/* bits of a slot's ptr with an offset */
	NM_CONST uint64_t buf_align;	/* required of where data begin; 0: none */

	/* For the program's own use. */
	uint8_t sem[128] __attribute__((__aligned__(NM_CACHE_ALIGN)));

	struct netmap_slot slot[];
};

/* Set ts at each receive sync, whatever the system's setting is. */
#define NR_TIMESTAMP	0x0002
/* Obey NS_FORWARD in this ring's slots. */
#define NR_FORWARD	0x0004

/* Whether the program owns no slot. */
static inline int
nm_ring_empty(struct netmap_ring *ring)
{
	return ring->tail == ring->head;
}

/* What a descriptor is bound to. One for each open descriptor. */
struct netmap_if {
	char ni_name[NM_IFNAMSIZ];	/* cut if longer */
	NM_CONST uint32_t ni_version;	/* not used */
	NM_CONST uint32_t ni_flags;
#define NI_PRIV_MEM	0x1		/* the region is the port's own */

	NM_CONST uint32_t ni_tx_rings;	/* without host rings */
	NM_CONST uint32_t ni_rx_rings;
	uint32_t ni_bufs_head;		/* first extra buffer, 0: none */
	NM_CONST uint32_t ni_host_tx_rings;
	NM_CONST uint32_t ni_host_rx_rings;
	uint32_t ni_spare1[3];

	/*
	 * From here to each ring, bytes: transmit, host transmit, receive, host
	 * receive. 0 for rings that are not bound.
	 */
	NM_CONST ssize_t ring_ofs[];
};

/* The requests of older programs. */
#include <net/netmap_legacy.h>

/* ------------------------------------------------------------------------ */
/* Requests                                                                  */
/* ------------------------------------------------------------------------ */

/* Most bytes of a request with its options. */
#define NETMAP_REQ_MAXSIZE	4096
/* Size of a name in a request with its NUL. */
#define NETMAP_REQ_IFNAMSIZ	64

/* How every option begins. */
struct nmreq_option {
	uint64_t nro_next;	/* address of the next one, or 0 */
	uint32_t nro_reqtype;	/* NETMAP_REQ_OPT_* */
	uint32_t nro_status;	/* out: 0, or an errno; EOPNOTSUPP if not used */
	uint64_t nro_size;	/* whole size, for options that vary in it */
};

/* Argument of NIOCCTRL. */
struct nmreq_header {
	uint16_t nr_version;	/* NETMAP_API */
	uint16_t nr_reqtype;	/* NETMAP_REQ_* */
	uint32_t nr_reserved;	/* must be 0 */
	char     nr_name[NETMAP_REQ_IFNAMSIZ];	/* without "netmap:" */
	uint64_t nr_options;	/* address of the first option, or 0 */
	uint64_t nr_body;	/* address of the body, or 0 */
};

/* Types of requests; behind each, its body. */
enum {
	NETMAP_REQ_REGISTER = 1,	/* nmreq_register: bind to a port */
	NETMAP_REQ_PORT_INFO_GET = 2,	/* nmreq_port_info_get */
	NETMAP_REQ_VALE_ATTACH = 3,	/* nmreq_vale_attach: to a switch */
	NETMAP_REQ_VALE_DETACH = 4,	/* nmreq_vale_detach */
	NETMAP_REQ_VALE_LIST = 5,	/* nmreq_vale_list: next port */
	NETMAP_REQ_PORT_HDR_SET = 6,	/* nmreq_port_hdr: virtio-net header */
	NETMAP_REQ_PORT_HDR_GET = 7,	/* nmreq_port_hdr */
	NETMAP_REQ_VALE_NEWIF = 8,	/* nmreq_vale_newif: persistent port */
	NETMAP_REQ_VALE_DELIF = 9,	/* none */
	NETMAP_REQ_VALE_POLLING_ENABLE = 10,	/* nmreq_vale_polling */
	NETMAP_REQ_VALE_POLLING_DISABLE = 11,	/* nmreq_vale_polling */
	NETMAP_REQ_POOLS_INFO_GET = 12,	/* nmreq_pools_info */
	NETMAP_REQ_SYNC_KLOOP_START = 13,	/* nmreq_sync_kloop_start */
	NETMAP_REQ_SYNC_KLOOP_STOP = 14,	/* none */
	NETMAP_REQ_CSB_ENABLE = 15	/* none; an nmreq_opt_csb */
};

/* Types of options. */
enum {
	NETMAP_REQ_OPT_EXTMEM = 1,	/* REGISTER: nmreq_opt_extmem */
	NETMAP_REQ_OPT_SYNC_KLOOP_EVENTFDS = 2,	/* SYNC_KLOOP_START */
	NETMAP_REQ_OPT_CSB = 3,		/* REGISTER, CSB_ENABLE: nmreq_opt_csb */
	NETMAP_REQ_OPT_SYNC_KLOOP_MODE = 4,	/* SYNC_KLOOP_START */
	NETMAP_REQ_OPT_OFFSETS = 5,	/* REGISTER: nmreq_opt_offsets */
	NETMAP_REQ_OPT_MAX = 6		/* how many there are, and 1 */
};

/*
 * Bind the descriptor to a port. Numbers of rings and slots are wishes; what
 * comes back is the truth.
 */
struct nmreq_register {
	uint64_t nr_offset;		/* out: where the netmap_if is */
	uint64_t nr_memsize;		/* out: bytes to map */
	uint32_t nr_tx_slots;
	uint32_t nr_rx_slots;
	uint16_t nr_tx_rings;
	uint16_t nr_rx_rings;
	uint16_t nr_host_tx_rings;
	uint16_t nr_host_rx_rings;
	uint16_t nr_mem_id;		/* region, 0: the port's own */
	uint16_t nr_ringid;		/* for the modes with one ring */
	uint32_t nr_mode;		/* NR_REG_* */
	uint32_t nr_extra_bufs;		/* buffers outside the rings */
	uint64_t nr_flags;		/* as follows */
/* Watch what the rings of an open port transmit, or receive. */
#define NR_MONITOR_TX	0x100
#define NR_MONITOR_RX	0x200
/* Watch by exchanging buffers instead of copying. */
#define NR_ZCOPY_MON	0x400
/* Fail if the rings are in use, and keep others out. */
#define NR_EXCLUSIVE	0x800
/* Bind the rings of one direction only. */
#define NR_RX_RINGS_ONLY	0x2000
#define NR_TX_RINGS_ONLY	0x4000
/* The program can deal with virtio-net headers in front of packets. */
#define NR_ACCEPT_VNET_HDR	0x8000
/* poll() for writing receives as well. Has no effect. */
#define NR_DO_RX_POLL	0x10000
/* poll() transmits only if it is asked for writing. */
#define NR_NO_TX_POLL	0x20000
};

/* Which rings to bind. */
enum {
	NR_REG_DEFAULT = 0,	/* older requests only */
	NR_REG_ALL_NIC = 1,	/* all but host rings */
	NR_REG_SW = 2,		/* host rings */
	NR_REG_NIC_SW = 3,	/* all */
	NR_REG_ONE_NIC = 4,	/* the pair nr_ringid */
	NR_REG_PIPE_MASTER = 5,	/* older requests only */
	NR_REG_PIPE_SLAVE = 6,	/* older requests only */
	NR_REG_NULL = 7,	/* no port, memory only */
	NR_REG_ONE_SW = 8	/* the host pair nr_ringid */
};

/* Requests of all types above. */
#define NIOCCTRL	_IOWR('i', 151, struct nmreq_header)
/* Synchronise all bound rings of one direction. No argument. */
#define NIOCTXSYNC	_IO('i', 148)
#define NIOCRXSYNC	_IO('i', 149)

/* What REGISTER would find; or, without a name, the region's size. */
struct nmreq_port_info_get {
	uint64_t nr_memsize;
	uint32_t nr_tx_slots;
	uint32_t nr_rx_slots;
	uint16_t nr_tx_rings;
	uint16_t nr_rx_rings;
	uint16_t nr_host_tx_rings;
	uint16_t nr_host_rx_rings;
	uint16_t nr_mem_id;		/* in and out */
	uint16_t pad[3];
};

/* How names of switches begin. */
#define NM_BDG_NAME	"vale"

/* Attach an interface, nr_name "valeX:interface". */
struct nmreq_vale_attach {
	struct nmreq_register reg;
	uint32_t port_index;		/* out */
	uint32_t pad1;
};

/* Detach it. */
struct nmreq_vale_detach {
	uint32_t port_index;		/* out */
	uint32_t pad1;
};

/* The first port at or after a pair of indices. */
struct nmreq_vale_list {
	uint16_t nr_bridge_idx;		/* in and out */
	uint16_t pad1;
	uint32_t nr_port_idx;		/* in and out */
};

/* Length of a port's virtio-net header. */
struct nmreq_port_hdr {
	uint32_t nr_hdr_len;		/* 0, 10 or 12 */
	uint32_t pad1;
};

/* Make a persistent port. 0 anywhere: the default. */
struct nmreq_vale_newif {
	uint32_t nr_tx_slots;
	uint32_t nr_rx_slots;
	uint16_t nr_tx_rings;
	uint16_t nr_rx_rings;
	uint16_t nr_mem_id;
	uint16_t pad1;
};

/* Serve an attached interface by polling. */
struct nmreq_vale_polling {
	uint32_t nr_mode;
#define NETMAP_POLLING_MODE_SINGLE_CPU	1	/* one CPU for all rings */
#define NETMAP_POLLING_MODE_MULTI_CPU	2	/* one CPU for each */
	uint32_t nr_first_cpu_id;
	uint32_t nr_num_polling_cpus;
	uint32_t pad1;
};

/* Where a region's pools are. Offsets from its beginning and sizes in bytes. */
struct nmreq_pools_info {
	uint64_t nr_memsize;
	uint16_t nr_mem_id;		/* in and out */
	uint16_t pad1[3];
	uint64_t nr_if_pool_offset;
	uint32_t nr_if_pool_objtotal;
	uint32_t nr_if_pool_objsize;
	uint64_t nr_ring_pool_offset;
	uint32_t nr_ring_pool_objtotal;
	uint32_t nr_ring_pool_objsize;
	uint64_t nr_buf_pool_offset;
	uint32_t nr_buf_pool_objtotal;
	uint32_t nr_buf_pool_objsize;
};

/* Run the sync loop in the calling thread until it is stopped. */
struct nmreq_sync_kloop_start {
	uint32_t sleep_us;		/* pause between rounds, microseconds */
	uint32_t pad1;
};

/* ------------------------------------------------------------------------ */
/* Control blocks: ring pointers outside the rings                           */
/* ------------------------------------------------------------------------ */

/* From the program to the system, one for each bound ring. */
struct nm_csb_atok {
	uint32_t head;
	uint32_t cur;
	uint32_t appl_need_kick;	/* not 0: notify the program */
	uint32_t sync_flags;
	uint32_t pad[12];		/* 64 bytes in all */
};

/* From the system to the program, one for each bound ring. */
struct nm_csb_ktoa {
	uint32_t hwcur;
	uint32_t hwtail;
	uint32_t kern_need_kick;	/* not 0: notify the system */
	uint32_t pad[13];		/* 64 bytes in all */
};

/* Stores before it stay before stores after it. */
static inline void
nm_stst_barrier(void)
{
	__atomic_thread_fence(__ATOMIC_RELEASE);
}

/* Loads before it stay before loads after it. */
static inline void
nm_ldld_barrier(void)
{
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
}

/*
 * Publish a ring's pointers. The reader takes head first, so it never sees a
 * head beyond cur.
 */
static inline void
nm_sync_kloop_appl_write(struct nm_csb_atok *atok, uint32_t cur, uint32_t head)
{
	nm_stst_barrier();	/* slots and buffers first */
	__atomic_store_n(&atok->cur, cur, __ATOMIC_RELAXED);
	nm_stst_barrier();
	__atomic_store_n(&atok->head, head, __ATOMIC_RELAXED);
}

/* Fetch the system's pointers, in the opposite order of how it writes them. */
static inline void
nm_sync_kloop_appl_read(struct nm_csb_ktoa *ktoa, uint32_t *hwtail,
	uint32_t *hwcur)
{
	*hwtail = __atomic_load_n(&ktoa->hwtail, __ATOMIC_RELAXED);
	nm_ldld_barrier();
	*hwcur = __atomic_load_n(&ktoa->hwcur, __ATOMIC_RELAXED);
	nm_ldld_barrier();	/* slots and buffers last */
}

/* ------------------------------------------------------------------------ */
/* Options                                                                   */
/* ------------------------------------------------------------------------ */

/* Notifiers of the sync loop, one pair for each bound ring. */
struct nmreq_opt_sync_kloop_eventfds {
	struct nmreq_option nro_opt;
	struct {
		int32_t ioeventfd;	/* from the program to the loop */
		int32_t irqfd;		/* from the loop to the program, or -1 */
	} eventfds[];
};

/* In whose context the sync loop's rings are synchronised. */
struct nmreq_opt_sync_kloop_mode {
	struct nmreq_option nro_opt;
#define NM_OPT_SYNC_KLOOP_DIRECT_TX	(1 << 0)
#define NM_OPT_SYNC_KLOOP_DIRECT_RX	(1 << 1)
	uint32_t mode;
};

/* Use the program's memory as the region. */
struct nmreq_opt_extmem {
	struct nmreq_option nro_opt;
	uint64_t nro_usrptr;		/* its address */
	struct nmreq_pools_info nro_info;	/* in: wishes, out: the truth */
};

/* Where the control blocks are; both aligned to 64 bytes. */
struct nmreq_opt_csb {
	struct nmreq_option nro_opt;
	uint64_t csb_atok;		/* array of nm_csb_atok */
	uint64_t csb_ktoa;		/* array of nm_csb_ktoa */
};

/* Have data begin at an offset, kept in the slots' ptr. */
struct nmreq_opt_offsets {
	struct nmreq_option nro_opt;
	uint64_t nro_max_offset;	/* largest that will be used; out: accepted */
	uint64_t nro_initial_offset;	/* put into all slots */
	uint32_t nro_offset_bits;	/* low bits of ptr, 0: all */
	uint32_t nro_tx_align;		/* of where transmitted data begin */
	uint64_t nro_min_gap;		/* between packets in one buffer */
};

#endif /* _NET_NETMAP_H_ */
