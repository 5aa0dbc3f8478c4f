/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What netmap programs include: access to rings and buffers, and, if
 * NETMAP_WITH_LIBS is defined before, a small packet library of static
 * functions (nm_open(3)). New programs use <libnetmap.h> (nmport_open(3))
 * instead of that library.
 *
 *	fd = open(NETMAP_DEVICE_NAME, O_RDWR);
 *	ioctl(fd, NIOCCTRL, &request);
 *	mem = mmap(0, reg.nr_memsize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
 *	nifp = NETMAP_IF(mem, reg.nr_offset);
 *	ring = NETMAP_RXRING(nifp, 0);
 *	for (; !nm_ring_empty(ring); ring->head = ring->cur =
 *			nm_ring_next(ring, ring->head))
 *		use(NETMAP_BUF(ring, ring->slot[ring->head].buf_idx));
 */
#ifndef _NET_NETMAP_USER_H_
#define _NET_NETMAP_USER_H_

#define NETMAP_DEVICE_NAME "/dev/netmap"

#include <stdint.h>
#include <sys/socket.h>
#include <net/if.h>
#include <ctype.h>
#include <string.h>
#include <sys/time.h>

#ifndef likely
#define likely(x)	__builtin_expect(!!(x), 1)
#define unlikely(x)	__builtin_expect(!!(x), 0)
#endif

#include <net/netmap.h>

/* ------------------------------------------------------------------------ */
/* From offsets and indices to addresses                                     */
/* ------------------------------------------------------------------------ */

#define _NETMAP_OFFSET(type, ptr, offset) \
	((type)(void *)((char *)(ptr) + (offset)))

/* The netmap_if at an offset in a mapped region. */
#define NETMAP_IF(_base, _ofs) \
	_NETMAP_OFFSET(struct netmap_if *, _base, _ofs)

/* A ring by its number; host rings come after the others. */
#define NETMAP_TXRING(nifp, index) \
	_NETMAP_OFFSET(struct netmap_ring *, nifp, (nifp)->ring_ofs[index])
#define NETMAP_RXRING(nifp, index) \
	_NETMAP_OFFSET(struct netmap_ring *, nifp, \
		(nifp)->ring_ofs[(index) + (nifp)->ni_tx_rings + \
			(nifp)->ni_host_tx_rings])

/* The address of a buffer of the ring's region, and the opposite. */
#define NETMAP_BUF(ring, index) \
	((char *)(ring) + (ring)->buf_ofs + \
		((size_t)(index) * (ring)->nr_buf_size))
#define NETMAP_BUF_IDX(ring, buf) \
	(((char *)(buf) - ((char *)(ring) + (ring)->buf_ofs)) / \
		(ring)->nr_buf_size)

/* The offset of a slot's data, how to set it, and the data. */
#define NETMAP_ROFFSET(ring, slot) \
	((slot)->ptr & (ring)->offset_mask)
#define NETMAP_WOFFSET(ring, slot, offset) \
	do { \
		uint64_t _nm_mask = (ring)->offset_mask; \
		(slot)->ptr = ((slot)->ptr & ~_nm_mask) | \
			((offset) & _nm_mask); \
	} while (0)
#define NETMAP_BUF_OFFSET(ring, slot) \
	(NETMAP_BUF(ring, (slot)->buf_idx) + NETMAP_ROFFSET(ring, slot))

/* The slot after slot i. */
static inline uint32_t
nm_ring_next(struct netmap_ring *r, uint32_t i)
{
	uint32_t n = i + 1;

	return unlikely(n == r->num_slots) ? 0 : n;
}

/* Whether something that was sent is not yet complete. */
static inline int
nm_tx_pending(struct netmap_ring *r)
{
	return r->head != nm_ring_next(r, r->tail);
}

/* How many slots the program owns. */
static inline uint32_t
nm_ring_space(struct netmap_ring *ring)
{
	uint32_t head = ring->head, tail = ring->tail;

	return tail >= head ? tail - head : tail + ring->num_slots - head;
}

/* ------------------------------------------------------------------------ */
/* Messages                                                                  */
/* ------------------------------------------------------------------------ */

#ifndef ND
/* No message. */
#define ND(_fmt, ...)	do {} while (0)

/* A message with time, function and line on standard error. */
#define D(_fmt, ...) \
	do { \
		struct timeval _nm_now; \
		gettimeofday(&_nm_now, NULL); \
		fprintf(stderr, "%03d.%06d %s [%d] " _fmt "\n", \
			(int)(_nm_now.tv_sec % 1000), (int)_nm_now.tv_usec, \
			__FUNCTION__, __LINE__, ##__VA_ARGS__); \
	} while (0)

/* The same, not more than lps times a second. */
#define RD(lps, format, ...) \
	do { \
		static time_t _nm_second; \
		static int _nm_count; \
		struct timeval _nm_tv; \
		gettimeofday(&_nm_tv, NULL); \
		if (_nm_tv.tv_sec != _nm_second) { \
			_nm_second = _nm_tv.tv_sec; \
			_nm_count = 0; \
		} \
		if (_nm_count++ < (lps)) \
			D(format, ##__VA_ARGS__); \
	} while (0)
#endif /* ND */

/*
 * Copies a packet. Lengths that are multiples of 64 are copied in such steps;
 * nothing beyond l bytes is touched.
 */
static inline void
nm_pkt_copy(const void *_src, void *_dst, int l)
{
	const char *src = (const char *)_src;
	char *dst = (char *)_dst;

	if (unlikely(l >= 1024 || l % 64 != 0)) {
		if (l > 0)
			memcpy(dst, src, (size_t)l);
		return;
	}
	for (; l > 0; l -= 64, src += 64, dst += 64)
		__builtin_memcpy(dst, src, 64);
}

#ifdef NETMAP_WITH_LIBS
#ifndef HAVE_NETMAP_WITH_LIBS
#define HAVE_NETMAP_WITH_LIBS

/* ------------------------------------------------------------------------ */
/* The packet library                                                        */
/* ------------------------------------------------------------------------ */

#include <stdio.h>
#include <sys/mman.h>
#include <sys/ioctl.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include <signal.h>
#include <stdlib.h>

struct nm_desc;

/* A received packet. Begins like libpcap's pcap_pkthdr. */
struct nm_pkthdr {
	struct timeval ts;
	uint32_t caplen;	/* bytes that can be read at buf */
	uint32_t len;		/* bytes of the packet */

	uint64_t flags;
#define NM_MORE_PKTS	1	/* this call brings more packets */
	struct nm_desc *d;
	struct netmap_slot *slot;
	uint8_t *buf;
};

/* As libpcap's pcap_stat. */
struct nm_stat {
	unsigned int ps_recv;
	unsigned int ps_drop;
	unsigned int ps_ifdrop;
};

#define NM_ERRBUF_SIZE	512

/* An open port. Programs read it, and write cur_tx_ring and cur_rx_ring. */
struct nm_desc {
	struct nm_desc *self;	/* this very address, if it is open */
	int fd;
	void *mem;
	size_t memsize;
	int done_mmap;		/* mem was mapped for this descriptor */
	struct netmap_if * NM_CONST nifp;
	uint16_t first_tx_ring, last_tx_ring, cur_tx_ring;
	uint16_t first_rx_ring, last_rx_ring, cur_rx_ring;
	struct nmreq req;	/* what was asked for and what came back */
	struct nm_pkthdr hdr;	/* of nm_dispatch() */

	struct netmap_ring * NM_CONST some_ring;	/* for NETMAP_BUF() */
	void * NM_CONST buf_start;
	void * NM_CONST buf_end;

	/* For libpcap. */
	int snaplen;
	int promisc;
	int to_ms;
	char *errbuf;
	uint32_t if_flags;
	uint32_t if_reqcap;
	uint32_t if_curcap;
	struct nm_stat st;
	char msg[NM_ERRBUF_SIZE];
};

#define P2NMD(p)		((const struct nm_desc *)(p))
#define IS_NETMAP_DESC(d)	((d) && P2NMD(d)->self == P2NMD(d))
#define NETMAP_FD(d)		(P2NMD(d)->fd)

/* Called for each packet by nm_dispatch(). */
typedef void (*nm_cb_t)(unsigned char *, const struct nm_pkthdr *,
	const unsigned char *d);

/*
 * Flags of nm_open(): what to take from the descriptor given as its last
 * argument. NETMAP_NO_TX_POLL and NETMAP_DO_RX_POLL can be given as well.
 */
enum {
	NM_OPEN_NO_MMAP = 0x040000,	/* its mapping, if the region is the same */
	NM_OPEN_IFNAME = 0x080000,	/* name, rings and flags */
	NM_OPEN_ARG1 = 0x100000,
	NM_OPEN_ARG2 = 0x200000,	/* region */
	NM_OPEN_ARG3 = 0x400000,	/* extra buffers */
	NM_OPEN_RING_CFG = 0x800000	/* numbers of rings and slots */
};

static inline struct nm_desc *nm_open(const char *ifname,
	const struct nmreq *req, uint64_t flags, const struct nm_desc *arg);
static inline int nm_close(struct nm_desc *);
static inline int nm_mmap(struct nm_desc *, const struct nm_desc *);
static inline int nm_inject(struct nm_desc *, const void *, size_t);
static inline int nm_dispatch(struct nm_desc *, int, nm_cb_t,
	unsigned char *);
static inline unsigned char *nm_nextpkt(struct nm_desc *, struct nm_pkthdr *);

/* Whether the text from s to e has letters, digits and '_' only. */
static inline int
nm_is_identifier(const char *s, const char *e)
{
	while (s != e && (isalnum((unsigned char)*s) || *s == '_'))
		s++;
	return s == e;
}

/* Size of the message of nm_parse(). */
#ifndef MAXERRMSG
#define MAXERRMSG 80
#endif

/* Reads decimal digits; -1 if there are none, LONG_MAX-like if too many. */
static inline long
nm_parse_number(const char **at)
{
	long n = -1;

	for (; isdigit((unsigned char)**at); (*at)++) {
		if (n < 0)
			n = 0;
		if (n < 100000000)
			n = n * 10 + (**at - '0');
	}
	return n;
}

/*
 * Reads a name into d->req:
 *
 *	"netmap:" name tail
 *	"vale" [id] ":" port tail
 *	tail := ["^" | "*" | ("-" | "{" | "}") N] ("/" flags | "@" memid)*
 *	flags := of x z t r R T
 *
 * 0, or -1 with errno and a message of up to MAXERRMSG bytes at err.
 */
static inline int
nm_parse(const char *ifname, struct nm_desc *d, char *err)
{
	static const char modes[] = "-*^{}/@";
	const char *name = ifname, *port, *end, *why = NULL;
	uint32_t ringid = 0, flags = NR_REG_ALL_NIC;
	uint16_t memid = 0;
	long n;

	errno = 0;
	if (ifname[0] == 'v') {
		port = strchr(ifname, ':');
		if (port == NULL) {
			why = "missing ':' in the name of a switch port";
			goto fail;
		}
		if (port - ifname < 4 || !nm_is_identifier(ifname + 4, port)) {
			why = "bad name of a switch";
			goto fail;
		}
		port++;
		end = port + strcspn(port, modes);
		if (!nm_is_identifier(port, end)) {
			why = "bad name of a switch port";
			goto fail;
		}
	} else {
		name = ifname + strlen("netmap:");
		end = name + strcspn(name, modes);
	}
	if ((size_t)(end - name) >= sizeof(d->req.nr_name)) {
		why = "the name is too long";
		goto fail;
	}

	port = end;
	switch (*port) {
	case '^':
		flags = NR_REG_SW;
		port++;
		break;
	case '*':
		flags = NR_REG_NIC_SW;
		port++;
		break;
	case '-':
	case '{':
	case '}':
		flags = *port == '-' ? NR_REG_ONE_NIC :
			*port == '{' ? NR_REG_PIPE_MASTER : NR_REG_PIPE_SLAVE;
		port++;
		n = nm_parse_number(&port);
		if (n < 0 || n >= NETMAP_RING_MASK) {
			why = "the number of a ring or pipe is missing or too large";
			goto fail;
		}
		ringid = (uint32_t)n;
		break;
	default:
		break;
	}
	while (*port != '\0') {
		if (*port == '/') {
			const char *begin = ++port;

			for (; *port != '\0' && *port != '@'; port++) {
				switch (*port) {
				case 'x':
					flags |= NR_EXCLUSIVE;
					break;
				case 'z':
					flags |= NR_ZCOPY_MON;
					break;
				case 't':
					flags |= NR_MONITOR_TX;
					break;
				case 'r':
					flags |= NR_MONITOR_RX;
					break;
				case 'R':
					flags |= NR_RX_RINGS_ONLY;
					break;
				case 'T':
					flags |= NR_TX_RINGS_ONLY;
					break;
				default:
					why = "unknown flag; flags are x z t r R T";
					goto fail;
				}
			}
			if (port == begin && *port == '\0') {
				why = "flags are missing after '/'";
				goto fail;
			}
		} else if (*port == '@') {
			port++;
			n = nm_parse_number(&port);
			if (n <= 0 || n > 65535 || memid != 0) {
				why = memid != 0 ? "a second region" :
					"the number of a region is missing or too large";
				goto fail;
			}
			memid = (uint16_t)n;
		} else {
			why = "unexpected character in the name";
			goto fail;
		}
	}

	memcpy(d->req.nr_name, name, (size_t)(end - name));
	d->req.nr_name[end - name] = '\0';
	d->req.nr_flags |= flags;
	d->req.nr_ringid |= (uint16_t)ringid;
	d->req.nr_arg2 = memid;
	d->self = d;
	return 0;

fail:
	errno = EINVAL;
	if (err != NULL)
		snprintf(err, MAXERRMSG, "%s", why);
	return -1;
}

/*
 * Opens a port. req, if not NULL, has the values to begin with; flags say what
 * to take from the open descriptor parent. NULL with errno set if that fails;
 * errno is 0 if ifname is no name of a netmap port at all.
 */
static inline struct nm_desc *
nm_open(const char *ifname, const struct nmreq *req, uint64_t flags,
	const struct nm_desc *parent)
{
	struct nm_desc *d;
	char msg[MAXERRMSG] = "";
	const char *what = NULL;
	int why;

	if (strncmp(ifname, "netmap:", strlen("netmap:")) != 0 &&
	    strncmp(ifname, NM_BDG_NAME, strlen(NM_BDG_NAME)) != 0) {
		errno = 0;
		return NULL;
	}
	d = (struct nm_desc *)calloc(1, sizeof(*d));
	if (d == NULL) {
		errno = ENOMEM;
		return NULL;
	}
	d->self = d;
	d->fd = open(NETMAP_DEVICE_NAME, O_RDWR);
	if (d->fd < 0) {
		what = "cannot open " NETMAP_DEVICE_NAME;
		goto fail;
	}
	if (req != NULL)
		d->req = *req;
	if (!(flags & NM_OPEN_IFNAME) && nm_parse(ifname, d, msg) != 0) {
		what = msg;
		goto fail;
	}
	d->req.nr_version = NETMAP_API;
	d->req.nr_ringid &= NETMAP_RING_MASK;

	if (IS_NETMAP_DESC(parent) && flags != 0) {
		const struct nmreq *from = &parent->req;

		d->req.nr_arg1 = flags & NM_OPEN_ARG1 ? from->nr_arg1 : 4;
		if (flags & NM_OPEN_ARG2)
			d->req.nr_arg2 = from->nr_arg2;
		d->req.nr_arg3 = flags & NM_OPEN_ARG3 ? from->nr_arg3 : 0;
		if (flags & NM_OPEN_RING_CFG) {
			d->req.nr_tx_slots = from->nr_tx_slots;
			d->req.nr_rx_slots = from->nr_rx_slots;
			d->req.nr_tx_rings = from->nr_tx_rings;
			d->req.nr_rx_rings = from->nr_rx_rings;
		}
		if (flags & NM_OPEN_IFNAME) {
			memcpy(d->req.nr_name, from->nr_name,
				sizeof(d->req.nr_name));
			d->req.nr_ringid = from->nr_ringid;
			d->req.nr_flags = from->nr_flags;
		}
	}
	d->req.nr_ringid |=
		(uint16_t)(flags & (NETMAP_NO_TX_POLL | NETMAP_DO_RX_POLL));

	if (ioctl(d->fd, NIOCREGIF, &d->req) != 0) {
		what = "cannot register";
		goto fail;
	}

	switch (d->req.nr_flags & NR_REG_MASK) {
	case NR_REG_SW:
		d->first_tx_ring = d->last_tx_ring = d->req.nr_tx_rings;
		d->first_rx_ring = d->last_rx_ring = d->req.nr_rx_rings;
		break;
	case NR_REG_ALL_NIC:
		d->last_tx_ring = (uint16_t)(d->req.nr_tx_rings - 1);
		d->last_rx_ring = (uint16_t)(d->req.nr_rx_rings - 1);
		break;
	case NR_REG_NIC_SW:
		d->last_tx_ring = d->req.nr_tx_rings;
		d->last_rx_ring = d->req.nr_rx_rings;
		break;
	case NR_REG_ONE_NIC:
		d->first_tx_ring = d->last_tx_ring =
		d->first_rx_ring = d->last_rx_ring =
			d->req.nr_ringid & NETMAP_RING_MASK;
		break;
	default:	/* pipes have one pair, number 0 */
		break;
	}

	/* With a parent, its mapping is used even if none is to be made. */
	if ((!(flags & NM_OPEN_NO_MMAP) || parent != NULL) &&
	    nm_mmap(d, parent) != 0) {
		what = "cannot map the region";
		goto fail;
	}
	d->cur_tx_ring = d->first_tx_ring;
	d->cur_rx_ring = d->first_rx_ring;
	return d;

fail:
	why = errno;
	D("%s: %s (%s)", ifname, what, strerror(why));
	nm_close(d);
	errno = why != 0 ? why : EINVAL;
	return NULL;
}

/* Closes a port and frees its descriptor. 0, or EINVAL if it is not open. */
static inline int
nm_close(struct nm_desc *d)
{
	if (d == NULL || d->self != d)
		return EINVAL;
	if (d->done_mmap && d->mem != NULL)
		munmap(d->mem, d->memsize);
	if (d->fd >= 0)
		close(d->fd);
	memset((void *)d, 0, sizeof(*d));
	free(d);
	return 0;
}

/* Sets one of the fields that programs cannot. */
static inline void
nm_set_field(const void *field, const void *value)
{
	memcpy((void *)(uintptr_t)field, &value, sizeof(value));
}

/*
 * Maps the region, or takes over the parent's mapping if the region is the
 * same. 0, or EINVAL with errno set.
 */
static inline int
nm_mmap(struct nm_desc *d, const struct nm_desc *parent)
{
	struct netmap_if *nifp;
	struct netmap_ring *ring;

	if (d->done_mmap)
		return 0;
	if (IS_NETMAP_DESC(parent) && parent->mem != NULL &&
	    parent->req.nr_arg2 == d->req.nr_arg2) {
		d->mem = parent->mem;
		d->memsize = parent->memsize;
	} else {
		void *mem = mmap(NULL, d->req.nr_memsize,
			PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, 0);

		if (mem == MAP_FAILED)
			return EINVAL;
		d->mem = mem;
		d->memsize = d->req.nr_memsize;
		d->done_mmap = 1;
	}

	nifp = NETMAP_IF(d->mem, d->req.nr_offset);
	ring = NETMAP_RXRING(nifp, d->first_rx_ring);
	if ((void *)ring == (void *)nifp)	/* transmit rings only */
		ring = NETMAP_TXRING(nifp, d->first_tx_ring);
	nm_set_field(&d->nifp, nifp);
	nm_set_field(&d->some_ring, ring);
	nm_set_field(&d->buf_start, NETMAP_BUF(ring, 0));
	nm_set_field(&d->buf_end, (char *)d->mem + d->memsize);
	return 0;
}

/*
 * Copies a packet into the transmit rings, beginning with cur_tx_ring, over
 * several slots if it is longer than a buffer. The size, or 0 if no ring has
 * room. It leaves at the next poll() or NIOCTXSYNC.
 */
static inline int
nm_inject(struct nm_desc *d, const void *buf, size_t size)
{
	const char *data = (const char *)buf;
	unsigned int ri = d->cur_tx_ring, tries;

	for (tries = d->first_tx_ring; tries <= d->last_tx_ring;
			tries++, ri++) {
		struct netmap_ring *ring;
		uint32_t i, need, room;

		if (ri > d->last_tx_ring)
			ri = d->first_tx_ring;
		ring = NETMAP_TXRING(d->nifp, ri);
		need = size == 0 ? 1 : (uint32_t)
			((size - 1) / ring->nr_buf_size + 1);
		/* Packets between head and cur are held back until now. */
		i = ring->cur;
		room = ring->tail >= i ? ring->tail - i :
			ring->tail + ring->num_slots - i;
		if (need > room || need > NETMAP_MAX_FRAGS)
			continue;
		for (; need > 0; need--) {
			struct netmap_slot *slot = &ring->slot[i];
			size_t len = need > 1 ? ring->nr_buf_size : size;

			slot->len = (uint16_t)len;
			slot->flags = need > 1 ? NS_MOREFRAG : 0;
			nm_pkt_copy(data, NETMAP_BUF(ring, slot->buf_idx),
				(int)len);
			data += len;
			size -= len;
			i = nm_ring_next(ring, i);
		}
		ring->head = ring->cur = i;
		d->cur_tx_ring = (uint16_t)ri;
		return (int)(data - (const char *)buf);
	}
	return 0;
}

/*
 * Calls cb for up to cnt received packets, 0 or -1: all there are; returns how
 * many it were. A packet of several slots is given at once; caplen says how
 * much of it can be read at buf.
 */
static inline int
nm_dispatch(struct nm_desc *d, int cnt, nm_cb_t cb, unsigned char *arg)
{
	unsigned int ri = d->cur_rx_ring, tries;
	int got = 0;

	d->hdr.buf = NULL;
	d->hdr.flags = NM_MORE_PKTS;
	d->hdr.d = d;
	if (cnt == 0)
		cnt = -1;
	for (tries = d->first_rx_ring; tries <= d->last_rx_ring && got != cnt;
			tries++, ri++) {
		struct netmap_ring *ring;

		if (ri > d->last_rx_ring)
			ri = d->first_rx_ring;
		ring = NETMAP_RXRING(d->nifp, ri);
		for (; got != cnt && ring->cur != ring->tail; got++) {
			struct netmap_slot *slot;
			unsigned char *next;
			uint32_t i = ring->cur;
			int in_row = 1;

			/* A packet is given when it is known if another follows. */
			if (d->hdr.buf != NULL)
				cb(arg, &d->hdr, d->hdr.buf);
			slot = &ring->slot[i];
			d->cur_rx_ring = (uint16_t)ri;
			d->hdr.slot = slot;
			d->hdr.buf = (unsigned char *)
				NETMAP_BUF(ring, slot->buf_idx);
			d->hdr.len = d->hdr.caplen = slot->len;
			next = d->hdr.buf + slot->len;
			while ((slot->flags & NS_MOREFRAG) &&
			    nm_ring_next(ring, i) != ring->tail) {
				unsigned char *data;

				i = nm_ring_next(ring, i);
				slot = &ring->slot[i];
				data = (unsigned char *)
					NETMAP_BUF(ring, slot->buf_idx);
				d->hdr.len += slot->len;
				/* Buffers may happen to follow each other. */
				in_row = in_row && data == next;
				if (in_row) {
					d->hdr.caplen += slot->len;
					next = data + slot->len;
				}
			}
			d->hdr.ts = ring->ts;
			ring->head = ring->cur = nm_ring_next(ring, i);
		}
	}
	if (d->hdr.buf != NULL) {
		d->hdr.flags = 0;
		cb(arg, &d->hdr, d->hdr.buf);
	}
	return got;
}

/*
 * The next received slot, NULL if there is none. The data are valid until the
 * next poll() or NIOCRXSYNC.
 */
static inline unsigned char *
nm_nextpkt(struct nm_desc *d, struct nm_pkthdr *hdr)
{
	unsigned int ri = d->cur_rx_ring;

	do {
		struct netmap_ring *ring = NETMAP_RXRING(d->nifp, ri);

		if (ring->cur != ring->tail) {
			uint32_t i = ring->cur;
			struct netmap_slot *slot = &ring->slot[i];

			hdr->ts = ring->ts;
			hdr->len = hdr->caplen = slot->len;
			ring->head = ring->cur = nm_ring_next(ring, i);
			d->cur_rx_ring = (uint16_t)ri;
			return (unsigned char *)NETMAP_BUF(ring, slot->buf_idx);
		}
		if (++ri > d->last_rx_ring)
			ri = d->first_rx_ring;
	} while (ri != d->cur_rx_ring);
	return NULL;
}

#endif /* HAVE_NETMAP_WITH_LIBS */
#endif /* NETMAP_WITH_LIBS */

#endif /* _NET_NETMAP_USER_H_ */
