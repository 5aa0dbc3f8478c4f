/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What rings and slots mean. */
#include "t.h"
#include <sys/time.h>

static struct port a, b;

static void
up(void)
{
	a = port("vale0:a");
	b = port("vale0:b");
}

static void
stamps(void)
{
	struct netmap_ring *r;
	struct timeval now;
	long long last = 0, us, away;

	up();
	r = rxr(&b, 0);
	for (int i = 0; i < 20; i++) {
		CHECK(ioctl(b.fd, NIOCRXSYNC, NULL) == 0);
		gettimeofday(&now, NULL);
		us = r->ts.tv_sec * 1000000LL + r->ts.tv_usec;
		away = now.tv_sec * 1000000LL + now.tv_usec - us;
		CHECK(us > last);
		CHECK(away >= 0 && away < 1000000);
		last = us;
		pause_ms(2);
	}
	/* By poll, too; and nobody touches those of transmit rings. */
	struct pollfd f = { .fd = b.fd, .events = POLLIN };
	SAME(poll(&f, 1, 0), 0);
	CHECK(r->ts.tv_sec * 1000000LL + r->ts.tv_usec > last);
	SAME(txr(&b, 0)->ts.tv_sec, 0);
}

static void
fresh(void)
{
	struct netmap_ring *t, *r;

	up();
	t = txr(&a, 0);
	r = rxr(&a, 0);
	CHECK(t->head == 0 && t->cur == 0 && t->tail == t->num_slots - 1);
	CHECK(r->head == 0 && r->cur == 0 && r->tail == 0);
	/* As netmap has them: 1 transmits. */
	CHECK(t->dir == 1 && r->dir == 0 && t->ringid == 0);
	for (uint32_t i = 0; i < t->num_slots; i++) {
		SAME(t->slot[i].len, t->nr_buf_size);
		CHECK(t->slot[i].flags == 0 && t->slot[i].buf_idx > 1);
		CHECK(t->slot[i].buf_idx != r->slot[i].buf_idx);
	}
	CHECK(strcmp(a.nifp->ni_name, "vale0:a") == 0);
	CHECK(a.nifp->ni_tx_rings == 1 && a.nifp->ni_rx_rings == 1);
	/* VALE gives slots back at once, all but one. */
	while (!nm_ring_empty(t))
		queue(&a, 1, 60);
	CHECK(ioctl(a.fd, NIOCTXSYNC, NULL) == 0);
	for (int i = 0; isolated() && nm_tx_pending(t) && i < 2000; i++)
		pause_ms(1);
	SAME(nm_ring_space(t), t->num_slots - 1);
	CHECK(!nm_tx_pending(t));
}

/* Queues a frame of n fragments; `last`: the chain ends. */
static void
chain(int n, int mark, int last)
{
	struct netmap_ring *r = txr(&a, 0);

	for (int i = 0; i < n; i++) {
		struct netmap_slot *s = &r->slot[r->head];

		CHECK(!nm_ring_empty(r));
		fill(NETMAP_BUF(r, s->buf_idx), 100, mark + i);
		s->len = 100;
		s->flags = i == n - 1 && last ? 0 : NS_MOREFRAG;
		r->head = r->cur = nm_ring_next(r, r->head);
	}
	CHECK(ioctl(a.fd, NIOCTXSYNC, NULL) == 0);
}

static void
fragments(void)
{
	struct netmap_ring *r;

	up();
	r = rxr(&b, 0);
	for (int n = 1; n < 64; n += 7) {
		chain(n, n, 1);
		CHECK(ioctl(b.fd, NIOCRXSYNC, NULL) == 0);
		SAME(nm_ring_space(r), n);
		for (int i = 0; i < n; i++) {
			struct netmap_slot *s = &r->slot[r->head];

			SAME(s->len, 100);
			SAME(s->flags & NS_MOREFRAG, i < n - 1 ? NS_MOREFRAG : 0);
			/* The count is the total, in every slot. */
			SAME(NS_RFRAGS(s), n);
			SAME((unsigned char)NETMAP_BUF(r, s->buf_idx)[20], n + i);
			r->head = r->cur = nm_ring_next(r, r->head);
		}
	}
	/* Too many: no harm, and what follows arrives. */
	chain(65, 1, 1);
	chain(300, 1, 1);
	chain(500, 1, 0);
	send_one(&a, 0xab);
	CHECK(ioctl(b.fd, NIOCRXSYNC, NULL) == 0);
	int seen = 0, run = 0;
	while (!nm_ring_empty(r)) {
		struct netmap_slot *s = &r->slot[r->head];

		run = s->flags & NS_MOREFRAG ? run + 1 : 0;
		CHECK(run < 64);
		seen = (unsigned char)NETMAP_BUF(r, s->buf_idx)[20];
		r->head = r->cur = nm_ring_next(r, r->head);
	}
	SAME(seen, 0xab);
}

/* Slots of a pipe travel, and come back as the receiver left them. */
static void
pipes(void)
{
	struct port m = port("x{1"), s = port("x}1");
	struct netmap_ring *t = txr(&m, 0), *r = rxr(&s, 0);
	uint32_t bufs[2], tail;

	SAME(m.reg.nr_mem_id, s.reg.nr_mem_id);
	SAME(t->num_slots, r->num_slots);
	/* Another buffer, by exchange. */
	uint32_t mine = t->slot[0].buf_idx;
	t->slot[0].buf_idx = t->slot[t->num_slots - 1].buf_idx;
	t->slot[t->num_slots - 1].buf_idx = mine;
	bufs[0] = t->slot[0].buf_idx;
	queue(&m, 7, 60);
	t->slot[0].flags = NS_BUF_CHANGED;
	t->slot[0].ptr = 0x1234567890;
	CHECK(ioctl(m.fd, NIOCTXSYNC, NULL) == 0);
	CHECK(nm_tx_pending(t));
	CHECK(ioctl(s.fd, NIOCRXSYNC, NULL) == 0);
	SAME(nm_ring_space(r), 1);
	SAME(r->slot[0].buf_idx, bufs[0]);
	SAME(r->slot[0].len, 60);
	SAME(r->slot[0].ptr, 0x1234567890);
	CHECK(r->slot[0].flags & NS_BUF_CHANGED);
	CHECK(!(t->slot[0].flags & NS_BUF_CHANGED));
	/* The receiver puts in one of its own. */
	bufs[1] = txr(&s, 0)->slot[5].buf_idx;
	txr(&s, 0)->slot[5].buf_idx = r->slot[0].buf_idx;
	r->slot[0].buf_idx = bufs[1];
	r->slot[0].flags = NS_BUF_CHANGED;
	r->head = r->cur = 1;
	tail = t->tail;
	CHECK(ioctl(m.fd, NIOCTXSYNC, NULL) == 0);
	CHECK(t->tail == tail && nm_tx_pending(t));
	CHECK(ioctl(s.fd, NIOCRXSYNC, NULL) == 0);
	CHECK(ioctl(m.fd, NIOCTXSYNC, NULL) == 0);
	CHECK(!nm_tx_pending(t));
	SAME(t->tail, (tail + 1) % t->num_slots);
	/* At the tail itself, which does not belong to us: lb looks there. */
	SAME(t->tail, 0);
	SAME(t->slot[0].buf_idx, bufs[1]);
	CHECK(t->slot[0].flags & NS_BUF_CHANGED);
	/* A frame that is not complete does not show. */
	queue(&m, 8, 60);
	t->slot[1].flags = NS_MOREFRAG;
	CHECK(ioctl(m.fd, NIOCTXSYNC, NULL) == 0);
	CHECK(ioctl(s.fd, NIOCRXSYNC, NULL) == 0);
	SAME(nm_ring_space(r), 0);
	queue(&m, 9, 60);
	CHECK(ioctl(m.fd, NIOCTXSYNC, NULL) == 0);
	CHECK(ioctl(s.fd, NIOCRXSYNC, NULL) == 0);
	SAME(nm_ring_space(r), 2);
	/* The peer goes and comes back: what is in the ring stays. */
	unport(&s);
	for (int i = 0; i < 20; i++) {
		pause_ms(5);
		CHECK(ioctl(m.fd, NIOCTXSYNC, NULL) == 0);
	}
	s = port("x}1");
	r = rxr(&s, 0);
	CHECK(ioctl(s.fd, NIOCRXSYNC, NULL) == 0);
	SAME(nm_ring_space(r), 2);
}

/* Words that are the program's, and words that are not. */
static void
words(void)
{
	struct netmap_ring *t, *r;
	unsigned char before[sizeof(t->sem)];

	up();
	t = txr(&a, 0);
	r = rxr(&b, 0);
	memset((void *)&t->sem, 0x5a, sizeof(t->sem));
	memset((void *)&r->sem, 0xa5, sizeof(r->sem));
	memcpy(before, (void *)&t->sem, sizeof(before));
	for (int i = 0; i < 3000; i++) {
		send_one(&a, i & 127);
		SAME(recv_one(&b), i & 127);
	}
	CHECK(memcmp(before, (void *)&t->sem, sizeof(before)) == 0);
	memset(before, 0xa5, sizeof(before));
	CHECK(memcmp(before, (void *)&r->sem, sizeof(before)) == 0);
	/* A tail that was written over comes back. */
	uint32_t tail = t->tail;
	t->tail = 17;
	CHECK(ioctl(a.fd, NIOCTXSYNC, NULL) == 0);
	SAME(t->tail, tail);
	send_one(&a, 1);
	CHECK(ioctl(b.fd, NIOCRXSYNC, NULL) == 0);
	tail = r->tail;
	r->tail = 0xffffffff;
	CHECK(ioctl(b.fd, NIOCRXSYNC, NULL) == 0);
	SAME(r->tail, tail);
	SAME(take(&b), 1);
	/* Bad words: the call succeeds, nothing moves, all is put right. */
	uint32_t head = t->head;
	t->slot[3].buf_idx = 0xffffff;
	t->slot[4].len = 0xffff;
	t->head = t->cur = t->num_slots + 5;
	CHECK(ioctl(a.fd, NIOCTXSYNC, NULL) == 0);
	CHECK(t->head == head && t->cur == head);
	CHECK(t->slot[3].buf_idx == 0 && t->slot[3].len == 0);
	SAME(t->slot[4].len, 0);
	nothing(&b);
	send_one(&a, 2);
	SAME(recv_one(&b), 2);
	/* Unknown bits of slots. */
	queue(&a, 3, 60);
	t->slot[(t->head + t->num_slots - 1) % t->num_slots].flags = 0xff00 | NS_REPORT
		| NS_FORWARD | NS_NO_LEARN | NS_BUF_CHANGED;
	CHECK(ioctl(a.fd, NIOCTXSYNC, NULL) == 0);
	CHECK(!(t->slot[(t->head + t->num_slots - 1) % t->num_slots].flags
		& NS_BUF_CHANGED));
	SAME(recv_one(&b), 3);
	/* A bad buffer is an empty frame, which is nobody's. */
	queue(&a, 4, 60);
	t->slot[(t->head + t->num_slots - 1) % t->num_slots].buf_idx = 0xfffffff;
	CHECK(ioctl(a.fd, NIOCTXSYNC, NULL) == 0);
	send_one(&a, 5);
	SAME(recv_one(&b), 5);
}

/* Data outside of any buffer. */
static void
indirect(void)
{
	static char frame[1500];
	struct netmap_ring *t;
	struct netmap_slot *s;
	char *end;

	up();
	t = txr(&a, 0);
	fill(frame, sizeof(frame), 0x66);
	s = &t->slot[t->head];
	s->len = sizeof(frame);
	s->flags = NS_INDIRECT;
	s->ptr = (uintptr_t)frame;
	t->head = t->cur = nm_ring_next(t, t->head);
	CHECK(ioctl(a.fd, NIOCTXSYNC, NULL) == 0);
	SAME(recv_one(&b), 0x66);
	s = &rxr(&b, 0)->slot[0];
	SAME(s->len, sizeof(frame));
	CHECK(memcmp(NETMAP_BUF(rxr(&b, 0), s->buf_idx), frame, sizeof(frame)) == 0);
	/* Up to the end of what is mapped, beyond it, and nowhere. */
	end = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(munmap(end + 4096, 4096) == 0);
	uintptr_t at[] = { (uintptr_t)end + 4096 - 100, (uintptr_t)end + 4096 - 50, 8, ~7UL, 0 };
	fill(end + 4096 - 100, 100, 0x67);
	for (unsigned i = 0; i < 5; i++) {
		s = &t->slot[t->head];
		s->len = 100;
		s->flags = NS_INDIRECT;
		s->ptr = at[i];
		t->head = t->cur = nm_ring_next(t, t->head);
	}
	CHECK(ioctl(a.fd, NIOCTXSYNC, NULL) == 0);
	SAME(recv_one(&b), 0x67);
	send_one(&a, 0x68);
	SAME(recv_one(&b), 0x68);
	nothing(&b);
}

/* A second opener sees the rings as they are. */
static void
second(void)
{
	struct port c;

	up();
	send_one(&a, 1);
	send_one(&a, 2);
	SAME(recv_one(&b), 1);
	c = port("vale0:b");
	SAME(rxr(&c, 0)->head, 1);
	SAME(recv_one(&c), 2);
	CHECK(c.reg.nr_offset != b.reg.nr_offset);
	SAME(c.nifp->ring_ofs[1] + (char *)c.nifp - c.mem,
		b.nifp->ring_ofs[1] + (char *)b.nifp - b.mem);
	unport(&b);
	pause_ms(50);
	send_one(&a, 3);
	SAME(recv_one(&c), 3);
}

int
main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "stamps", stamps }, { "fresh", fresh },
		{ "fragments", fragments }, { "pipes", pipes },
		{ "words", words }, { "indirect", indirect },
		{ "second", second }, { NULL, NULL },
	};

	return run_tests(tests, argc, argv);
}
