/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The requests of netmap's API 11 and earlier, which nm_open() and libpcap
 * still make. New programs use NIOCCTRL. Included by <net/netmap.h>.
 */
#ifndef _NET_NETMAP_LEGACY_H_
#define _NET_NETMAP_LEGACY_H_

/* Argument of NIOCGINFO and NIOCREGIF. Offsets and sizes are cut to 32 bits. */
struct nmreq {
	char     nr_name[NM_IFNAMSIZ];
	uint32_t nr_version;		/* NETMAP_API */
	uint32_t nr_offset;		/* out: where the netmap_if is */
	uint32_t nr_memsize;		/* out: bytes to map */
	uint32_t nr_tx_slots;
	uint32_t nr_rx_slots;
	uint16_t nr_tx_rings;
	uint16_t nr_rx_rings;
	uint16_t nr_ringid;		/* a number, and: */
#define NETMAP_HW_RING		0x4000	/* that pair of rings only */
#define NETMAP_SW_RING		0x2000	/* host rings only */
#define NETMAP_RING_MASK	0x0fff	/* the number */
#define NETMAP_NO_TX_POLL	0x1000	/* as NR_NO_TX_POLL */
#define NETMAP_DO_RX_POLL	0x8000	/* as NR_DO_RX_POLL */
	uint16_t nr_cmd;		/* 0, or: */
#define NETMAP_BDG_ATTACH	1
#define NETMAP_BDG_DETACH	2
#define NETMAP_BDG_REGOPS	3
#define NETMAP_BDG_LIST		4
#define NETMAP_BDG_VNET_HDR	5
#define NETMAP_BDG_OFFSET	NETMAP_BDG_VNET_HDR
#define NETMAP_BDG_NEWIF	6
#define NETMAP_BDG_DELIF	7
#define NETMAP_PT_HOST_CREATE	8	/* no longer supported */
#define NETMAP_PT_HOST_DELETE	9	/* no longer supported */
#define NETMAP_BDG_POLLING_ON	10
#define NETMAP_BDG_POLLING_OFF	11
#define NETMAP_VNET_HDR_GET	12
	uint16_t nr_arg1;		/* depends on the command */
#define NETMAP_BDG_HOST		1	/* attach host rings as well */
	uint16_t nr_arg2;		/* region */
	uint32_t nr_arg3;		/* extra buffers */
	uint32_t nr_flags;		/* NR_REG_* and further NR_* */
#define NR_REG_MASK		0xf	/* the mode among them */
	uint32_t spare2[1];
};

/* Argument of NIOCCONFIG. */
#define NM_IFRDATA_LEN	256
struct nm_ifreq {
	char nifr_name[NM_IFNAMSIZ];
	char data[NM_IFRDATA_LEN];
};

/* What REGIF would find. */
#define NIOCGINFO	_IOWR('i', 145, struct nmreq)
/* Bind the descriptor to a port, or obey nr_cmd. */
#define NIOCREGIF	_IOWR('i', 146, struct nmreq)
/* Pass bytes to a switch's module. */
#define NIOCCONFIG	_IOWR('i', 150, struct nm_ifreq)

#endif /* _NET_NETMAP_LEGACY_H_ */
