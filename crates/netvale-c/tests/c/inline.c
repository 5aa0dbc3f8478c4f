/*
 * Tests the macros and inline functions of <net/netmap_user.h>, and its packet
 * library on a region made here. Prints "ok", or what is wrong.
 */
#include <stdio.h>
#define NETMAP_WITH_LIBS
#include <net/netmap_user.h>

#define SLOTS 4
#define BUF 2048

static int failures;

#define CHECK(what) \
	do { \
		if (!(what)) { \
			printf("line %d: %s\n", __LINE__, #what); \
			failures++; \
		} \
	} while (0)

/* Room for an interface, four rings, and their buffers after two reserved. */
static union {
	char bytes[64 * 1024];
	long double align;
} region __attribute__((__aligned__(128)));

static struct netmap_ring *
make_ring(struct netmap_if *nifp, int n, uint32_t head, uint32_t tail)
{
	struct netmap_ring *r = (struct netmap_ring *)(void *)
		(region.bytes + 1024 + n * 512);
	uint32_t i;
	int64_t to_bufs = region.bytes + 4096 - (char *)r;
	uint32_t slots = SLOTS, size = BUF;
	ssize_t ofs = (char *)r - (char *)nifp;

	memset((void *)r, 0, sizeof(*r));
	memcpy((void *)(uintptr_t)&r->buf_ofs, &to_bufs, sizeof(to_bufs));
	memcpy((void *)(uintptr_t)&r->num_slots, &slots, sizeof(slots));
	memcpy((void *)(uintptr_t)&r->nr_buf_size, &size, sizeof(size));
	r->head = r->cur = head;
	r->tail = tail;
	for (i = 0; i < SLOTS; i++) {
		memset(&r->slot[i], 0, sizeof(r->slot[i]));
		r->slot[i].buf_idx = 2 + n * SLOTS + i;
	}
	memcpy((void *)(uintptr_t)&nifp->ring_ofs[n], &ofs, sizeof(ofs));
	return r;
}

static void
test_rings(struct netmap_if *nifp)
{
	struct netmap_ring *r = make_ring(nifp, 0, 3, 1);
	struct netmap_slot *slot = &r->slot[0];
	uint64_t mask = 0xffff;

	CHECK(nm_ring_next(r, 0) == 1 && nm_ring_next(r, 3) == 0);
	CHECK(nm_ring_space(r) == 2 && !nm_ring_empty(r));
	r->head = 1;
	CHECK(nm_ring_space(r) == 0 && nm_ring_empty(r));
	r->head = 0;
	CHECK(nm_ring_space(r) == 1);
	/* All is sent when only the slot before head is missing. */
	r->tail = 3;
	CHECK(!nm_tx_pending(r));
	r->tail = 2;
	CHECK(nm_tx_pending(r));
	CHECK(NETMAP_BUF(r, 0) == region.bytes + 4096);
	CHECK(NETMAP_BUF(r, 3) == region.bytes + 4096 + 3 * BUF);
	CHECK(NETMAP_BUF_IDX(r, NETMAP_BUF(r, 7)) == 7);
	CHECK(NETMAP_TXRING(nifp, 0) == r);
	CHECK(NETMAP_IF(region.bytes, 0) == nifp);
	memcpy((void *)(uintptr_t)&r->offset_mask, &mask, sizeof(mask));
	slot->ptr = 0xab0000;
	NETMAP_WOFFSET(r, slot, 0x10040);
	CHECK(slot->ptr == 0xab0040 && NETMAP_ROFFSET(r, slot) == 0x40);
	CHECK(NETMAP_BUF_OFFSET(r, slot) == NETMAP_BUF(r, 2) + 0x40);
	slot->flags = 3 << 8 | NS_MOREFRAG;
	CHECK(NS_RFRAGS(slot) == 3);
}

static void
test_copy(void)
{
	char from[2000], to[2000];
	int l, i;

	for (i = 0; i < 2000; i++)
		from[i] = (char)(i * 7);
	for (l = 0; l <= 1500; l++) {
		memset(to, 1, sizeof(to));
		nm_pkt_copy(from, to, l);
		if (memcmp(from, to, (size_t)l) != 0 || to[l] != 1) {
			CHECK(!"nm_pkt_copy");
			return;
		}
	}
}

static void
test_parse(void)
{
	static const struct {
		const char *name, *port;
		uint32_t flags;
		uint16_t ringid, memid;
	} good[] = {
		{ "netmap:eth0", "eth0", NR_REG_ALL_NIC, 0, 0 },
		{ "netmap:eth0^", "eth0", NR_REG_SW, 0, 0 },
		{ "netmap:eth0*", "eth0", NR_REG_NIC_SW, 0, 0 },
		{ "netmap:eth0-3", "eth0", NR_REG_ONE_NIC, 3, 0 },
		{ "netmap:eth0{7", "eth0", NR_REG_PIPE_MASTER, 7, 0 },
		{ "netmap:eth0}7@2", "eth0", NR_REG_PIPE_SLAVE, 7, 2 },
		{ "vale0:a/xR", "vale0:a", NR_REG_ALL_NIC | NR_EXCLUSIVE |
			NR_RX_RINGS_ONLY, 0, 0 },
		{ "vale:a-1/zrtT@9", "vale:a", NR_REG_ONE_NIC | NR_ZCOPY_MON |
			NR_MONITOR_RX | NR_MONITOR_TX | NR_TX_RINGS_ONLY, 1, 9 },
		{ "netmap:eth0@3/x", "eth0", NR_REG_ALL_NIC | NR_EXCLUSIVE, 0, 3 },
	};
	static const char *bad[] = {
		"vale0", "vale-0:a", "vale0:a.b", "netmap:eth0-", "netmap:eth0-x",
		"netmap:eth0-4095", "netmap:eth0-99999999999999999999",
		"netmap:eth0{x", "netmap:eth0^1", "netmap:eth0/", "netmap:eth0/q",
		"netmap:eth0/x/z", "netmap:eth0@", "netmap:eth0@0",
		"netmap:eth0@65536", "netmap:eth0@1@2", "netmap:0123456789abcdef",
	};
	size_t i;

	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct nm_desc d;

		memset((void *)&d, 0, sizeof(d));
		if (nm_parse(good[i].name, &d, NULL) != 0 ||
		    strcmp(d.req.nr_name, good[i].port) != 0 ||
		    d.req.nr_flags != good[i].flags ||
		    d.req.nr_ringid != good[i].ringid ||
		    d.req.nr_arg2 != good[i].memid) {
			printf("%s: wrong\n", good[i].name);
			failures++;
		}
	}
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct nm_desc d;
		char err[MAXERRMSG] = "";

		memset((void *)&d, 0, sizeof(d));
		errno = 0;
		if (nm_parse(bad[i], &d, err) != -1 || errno != EINVAL ||
		    err[0] == '\0' || d.req.nr_name[0] != '\0') {
			printf("%s: accepted, or no error\n", bad[i]);
			failures++;
		}
	}
	errno = 77;
	CHECK(nm_open("eth0", NULL, 0, NULL) == NULL && errno == 0);
}

static unsigned int calls, more, bytes;

static void
count(unsigned char *arg, const struct nm_pkthdr *h, const unsigned char *data)
{
	CHECK(*arg == 42 && data == h->buf);
	calls++;
	more += h->flags & NM_MORE_PKTS;
	bytes += h->len;
}

static void
test_packets(struct netmap_if *nifp)
{
	struct netmap_ring *tx[2], *rx[2];
	struct nm_desc d;
	struct nm_pkthdr h;
	char packet[5000];
	unsigned char arg = 42;
	uint32_t one = 2;
	int i;

	memcpy((void *)(uintptr_t)&nifp->ni_tx_rings, &one, sizeof(one));
	for (i = 0; i < 2; i++) {
		tx[i] = make_ring(nifp, i, 0, SLOTS - 1);
		rx[i] = make_ring(nifp, 2 + i, 0, 0);
	}
	memset((void *)&d, 0, sizeof(d));
	nm_set_field(&d.nifp, nifp);
	d.last_tx_ring = d.last_rx_ring = 1;
	for (i = 0; i < 5000; i++)
		packet[i] = (char)(i / BUF);

	CHECK(nm_inject(&d, packet, 60) == 60 && tx[0]->head == 1);
	CHECK(tx[0]->cur == 1 && tx[0]->slot[0].len == 60);
	/* Three slots are not left in ring 0, but in ring 1. */
	CHECK(nm_inject(&d, packet, 5000) == 5000 && d.cur_tx_ring == 1);
	CHECK(tx[0]->head == 1 && tx[1]->head == 3);
	CHECK(tx[1]->slot[0].len == BUF && tx[1]->slot[2].len == 5000 - 2 * BUF);
	CHECK(tx[1]->slot[1].flags == NS_MOREFRAG && tx[1]->slot[2].flags == 0);
	CHECK(*NETMAP_BUF(tx[1], tx[1]->slot[2].buf_idx) == 2);
	CHECK(nm_inject(&d, packet, 5000) == 0);
	/* A slot that cur has passed is not given away twice. */
	tx[0]->cur = 2;
	CHECK(nm_inject(&d, packet, 1) == 1 && tx[0]->head == 3);
	CHECK(nm_inject(&d, packet, 1) == 0);

	rx[0]->tail = 1;
	rx[0]->slot[0].len = 10;
	rx[1]->tail = 3;
	rx[1]->slot[0].len = BUF;
	rx[1]->slot[0].flags = NS_MOREFRAG | 2 << 8;
	rx[1]->slot[1].len = 100;
	rx[1]->slot[2].len = 7;
	CHECK(nm_dispatch(&d, 2, count, &arg) == 2);
	CHECK(calls == 2 && more == 1 && bytes == 10 + BUF + 100);
	/* The buffers of these two slots follow each other. */
	CHECK(d.hdr.caplen == BUF + 100 && d.cur_rx_ring == 1);
	CHECK(rx[0]->head == 1 && rx[1]->head == 2 && rx[1]->cur == 2);
	CHECK(nm_nextpkt(&d, &h) == (unsigned char *)
		NETMAP_BUF(rx[1], rx[1]->slot[2].buf_idx) && h.len == 7);
	CHECK(nm_nextpkt(&d, &h) == NULL);
	CHECK(nm_dispatch(&d, 0, count, &arg) == 0 && calls == 2);
	/* A packet whose end has not arrived ends where the ring does. */
	rx[1]->tail = 0;
	rx[1]->slot[3].len = 9;
	rx[1]->slot[3].flags = NS_MOREFRAG;
	CHECK(nm_dispatch(&d, -1, count, &arg) == 1 && rx[1]->head == 0);
	CHECK(d.hdr.len == 9 && rx[1]->cur == rx[1]->tail);
	CHECK(nm_close(NULL) == EINVAL);
}

int
main(void)
{
	struct netmap_if *nifp = (struct netmap_if *)(void *)region.bytes;

	test_rings(nifp);
	test_copy();
	test_parse();
	test_packets(nifp);
	if (failures == 0)
		printf("ok\n");
	return failures != 0;
}
