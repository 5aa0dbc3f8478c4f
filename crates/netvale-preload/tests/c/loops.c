/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Control blocks and the sync loop; memory that the program brings along. */
#include "t.h"
#include <sys/eventfd.h>

struct looped {
	struct port p;
	struct nm_csb_atok *atok;
	struct nm_csb_ktoa *ktoa;
	struct sync_eventfds {
		struct nmreq_option opt;
		struct { int io, irq; } fd[2];
	} ev;
	int events;
	int result;
	pthread_t thread;
};

static void
open_looped(struct looped *l, const char *name)
{
	struct nmreq_opt_csb csb;

	memset(l, 0, sizeof(*l));
	CHECK(posix_memalign((void **)&l->atok, 4096, 4096) == 0);
	CHECK(posix_memalign((void **)&l->ktoa, 4096, 4096) == 0);
	memset(l->atok, 0, 4096);
	memset(l->ktoa, 0, 4096);
	memset(&csb, 0, sizeof(csb));
	csb.nro_opt.nro_reqtype = NETMAP_REQ_OPT_CSB;
	csb.csb_atok = (uintptr_t)l->atok;
	csb.csb_ktoa = (uintptr_t)l->ktoa;
	new_port(&l->p);
	/* Only for those who have the rings to themselves. */
	SAME(try_reg(&l->p, name, &csb.nro_opt), EINVAL);
	SAME(csb.nro_opt.nro_status, EINVAL);
	l->p.reg.nr_flags = NR_EXCLUSIVE;
	SAME(try_reg(&l->p, name, &csb.nro_opt), 0);
	SAME(csb.nro_opt.nro_status, 0);
	map(&l->p);
	SAME(l->atok[0].appl_need_kick, 1);
	SAME(l->ktoa[0].kern_need_kick, 1);
	SAME(l->ktoa[0].hwtail, txr(&l->p, 0)->num_slots - 1);
	SAME(l->ktoa[1].hwtail, 0);
	/* The usual ways are closed. */
	struct pollfd f = { .fd = l->p.fd, .events = POLLIN | POLLOUT };
	FAILS(ioctl(l->p.fd, NIOCTXSYNC, NULL), EBUSY);
	FAILS(ioctl(l->p.fd, NIOCRXSYNC, NULL), EBUSY);
	SAME(poll(&f, 1, PATIENCE_MS), 1);
	SAME(f.revents, POLLERR);
}

static void *
loop(void *arg)
{
	struct looped *l = arg;
	struct nmreq_sync_kloop_start start = { .sleep_us = 100 };

	l->result = request(l->p.fd, NETMAP_REQ_SYNC_KLOOP_START, "", &start,
		l->events ? &l->ev.opt : NULL) ? errno : 0;
	return NULL;
}

static void
start(struct looped *l, int events)
{
	l->events = events;
	if (events) {
		l->ev.opt.nro_reqtype = NETMAP_REQ_OPT_SYNC_KLOOP_EVENTFDS;
		l->ev.opt.nro_size = sizeof(l->ev);
		for (int i = 0; i < 2; i++) {
			l->ev.fd[i].io = eventfd(0, 0);
			l->ev.fd[i].irq = eventfd(0, 0);
		}
	}
	CHECK(pthread_create(&l->thread, NULL, loop, l) == 0);
}

static void
end(struct looped *l)
{
	CHECK(request(l->p.fd, NETMAP_REQ_SYNC_KLOOP_STOP, "", NULL, NULL) == 0);
	CHECK(pthread_join(l->thread, NULL) == 0);
	SAME(l->result, 0);
}

static uint32_t
get(uint32_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static void
put(uint32_t *p, uint32_t v)
{
	__atomic_store_n(p, v, __ATOMIC_SEQ_CST);
}

static void
kick(int fd)
{
	uint64_t one = 1;

	CHECK(write(fd, &one, sizeof(one)) == sizeof(one));
}

/* One frame out and one in. */
static void
exchange(struct looped *l, struct port *peer, int events, int mark)
{
	struct netmap_ring *t = txr(&l->p, 0), *r = rxr(&l->p, 0);
	uint32_t head = get(&l->atok[0].head), at;
	long long limit = now_ms() + PATIENCE_MS;
	uint64_t n;

	fill(NETMAP_BUF(t, t->slot[head].buf_idx), 60, mark);
	t->slot[head].len = 60;
	t->slot[head].flags = 0;
	put(&l->atok[0].cur, nm_ring_next(t, head));
	put(&l->atok[0].head, nm_ring_next(t, head));
	if (events)
		kick(l->ev.fd[0].io);
	SAME(recv_one(peer), mark);
	at = get(&l->atok[1].head);
	send_one(peer, mark + 1);
	if (events) {
		/* Somebody tells us. */
		struct pollfd f = { .fd = l->ev.fd[1].irq, .events = POLLIN };

		SAME(poll(&f, 1, PATIENCE_MS), 1);
		CHECK(read(f.fd, &n, sizeof(n)) == sizeof(n));
	}
	while (get(&l->ktoa[1].hwtail) == at)
		CHECK(now_ms() < limit);
	SAME((unsigned char)NETMAP_BUF(r, r->slot[at].buf_idx)[20], mark + 1);
	put(&l->atok[1].cur, nm_ring_next(r, at));
	put(&l->atok[1].head, nm_ring_next(r, at));
	if (events)
		kick(l->ev.fd[1].io);
	while (get(&l->ktoa[1].hwcur) != nm_ring_next(r, at))
		CHECK(now_ms() < limit);
}

static void
runs(int events)
{
	struct looped l;
	struct port peer = port("vale0:peer");

	open_looped(&l, "vale0:k");
	start(&l, events);
	for (int i = 0; i < 200; i++)
		exchange(&l, &peer, events, i & 127);
	struct nmreq_sync_kloop_start again = { 0 };
	FAILS(request(l.p.fd, NETMAP_REQ_SYNC_KLOOP_START, "", &again, NULL), EBUSY);
	end(&l);
	if (events)
		SAME(l.ev.opt.nro_status, 0);
	/* Once more, and the stop comes first. */
	CHECK(request(l.p.fd, NETMAP_REQ_SYNC_KLOOP_STOP, "", NULL, NULL) == 0);
	CHECK(request(l.p.fd, NETMAP_REQ_SYNC_KLOOP_START, "", &again, NULL) == 0);
	start(&l, 0);
	exchange(&l, &peer, 0, 3);
	/* Words that make no sense do no harm. */
	put(&l.atok[0].head, 0xfffffff0);
	pause_ms(20);
	end(&l);
	unport(&peer);
	unport(&l.p);
}

static void
polled(void)
{
	runs(0);
}

static void
signalled(void)
{
	runs(1);
}

/* In front of a cable: only the server can pass frames on to the host, and it
 * does so with as many as come. */
static void
passes_on(void)
{
	struct looped l;
	struct port peer = port("v1");
	struct netmap_ring *r;
	long long limit;
	uint32_t at = 0;

	open_looped(&l, "v0");
	r = rxr(&l.p, 0);
	r->flags |= NR_FORWARD;
	start(&l, 0);
	for (uint32_t i = 0; i < 3 * r->num_slots; i++) {
		send_one(&peer, i & 127);
		limit = now_ms() + PATIENCE_MS;
		while (get(&l.ktoa[1].hwtail) == at)
			CHECK(now_ms() < limit);
		SAME((unsigned char)NETMAP_BUF(r, r->slot[at].buf_idx)[20], i & 127);
		r->slot[at].flags |= NS_FORWARD;
		at = nm_ring_next(r, at);
		put(&l.atok[1].cur, at);
		put(&l.atok[1].head, at);
	}
	end(&l);
	unport(&peer);
	unport(&l.p);
}

static void
refused(void)
{
	struct nmreq_sync_kloop_start s = { 0 };
	struct nmreq_opt_sync_kloop_mode mode;
	struct looped l;
	struct port p = port("vale0:p");

	FAILS(request(p.fd, NETMAP_REQ_SYNC_KLOOP_START, "", &s, NULL), EINVAL);
	open_looped(&l, "vale0:k");
	s.sleep_us = 1000001;
	FAILS(request(l.p.fd, NETMAP_REQ_SYNC_KLOOP_START, "", &s, NULL), EINVAL);
	s.sleep_us = 0;
	l.ev.opt.nro_reqtype = NETMAP_REQ_OPT_SYNC_KLOOP_EVENTFDS;
	l.ev.opt.nro_size = sizeof(l.ev) - 8;
	FAILS(request(l.p.fd, NETMAP_REQ_SYNC_KLOOP_START, "", &s, &l.ev.opt), EINVAL);
	l.ev.opt.nro_size = sizeof(l.ev);
	l.ev.fd[0].io = 999;
	FAILS(request(l.p.fd, NETMAP_REQ_SYNC_KLOOP_START, "", &s, &l.ev.opt), EBADF);
	memset(&mode, 0, sizeof(mode));
	mode.nro_opt.nro_reqtype = NETMAP_REQ_OPT_SYNC_KLOOP_MODE;
	mode.mode = 8;
	FAILS(request(l.p.fd, NETMAP_REQ_SYNC_KLOOP_START, "", &s, &mode.nro_opt), EINVAL);
	mode.mode = NM_OPT_SYNC_KLOOP_DIRECT_TX;
	FAILS(request(l.p.fd, NETMAP_REQ_SYNC_KLOOP_START, "", &s, &mode.nro_opt), EINVAL);
}

/* Closing the descriptor ends the loop. */
static void
closed(void)
{
	struct looped l;

	open_looped(&l, "vale0:k");
	start(&l, 1);
	pause_ms(30);
	unport(&l.p);
	CHECK(pthread_join(l.thread, NULL) == 0);
}

static int
try_ext(struct port *p, const char *name, void *mem, size_t len)
{
	struct nmreq_opt_extmem ext;
	int e;

	memset(&ext, 0, sizeof(ext));
	ext.nro_opt.nro_reqtype = NETMAP_REQ_OPT_EXTMEM;
	ext.nro_usrptr = (uintptr_t)mem;
	ext.nro_info.nr_memsize = len;
	new_port(p);
	e = try_reg(p, name, &ext.nro_opt);
	SAME(ext.nro_opt.nro_status, e);
	if (e == 0) {
		SAME(ext.nro_info.nr_memsize, len);
		SAME(ext.nro_usrptr, (uintptr_t)mem);
		CHECK(ext.nro_info.nr_buf_pool_objsize == 2048);
		CHECK(ext.nro_info.nr_ring_pool_objtotal >= 2);
		p->mem = mem;
		p->nifp = NETMAP_IF(mem, p->reg.nr_offset);
	}
	return e;
}

#define LEN ((size_t)16 << 20)

static void
anonymous(void)
{
	char *mem = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct port b = port("vale0:b"), p;

	CHECK(mem != MAP_FAILED);
	SAME(try_ext(&p, "vale0:x", mem, 4096), ENOMEM);
	close(p.fd);
	SAME(try_ext(&p, "vale0:x", mem + 8, LEN), EINVAL);
	close(p.fd);
	SAME(try_ext(&p, "vale0:x", mem, LEN), 0);
	FAILS((long)mmap(NULL, 4096, PROT_READ, MAP_SHARED, p.fd, 0), EINVAL);
	for (int i = 0; i < 1500; i++) {
		send_one(&p, i & 127);
		SAME(recv_one(&b), i & 127);
		send_one(&b, i & 63);
		SAME(recv_one(&p), i & 63);
	}
	/* The program takes its memory away, the port stays. */
	CHECK(munmap(mem, LEN) == 0);
	CHECK(ioctl(p.fd, NIOCTXSYNC, NULL) == 0);
	send_one(&b, 1);
	CHECK(ioctl(p.fd, NIOCRXSYNC, NULL) == 0);
	close(p.fd);
}

/* Two processes that bring the same file meet in it. */
static void
file(void)
{
	char name[] = "/tmp/netvale-ext-XXXXXX";
	int fd = mkstemp(name), go[2];
	struct port p;
	pid_t child;
	char *mem;
	uint16_t id;

	CHECK(fd >= 0 && ftruncate(fd, LEN) == 0 && unlink(name) == 0);
	CHECK(pipe(go) == 0);
	child = fork();
	if (child == 0) {
		close(go[1]);
		CHECK(read(go[0], &id, 2) == 2);
		mem = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		SAME(try_ext(&p, "vale0:y", mem, LEN), 0);
		SAME(p.reg.nr_mem_id, id);
		send_one(&p, 'f');
		SAME(recv_one(&p), 'g');
		_exit(0);
	}
	mem = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	SAME(try_ext(&p, "vale0:x", mem, LEN), 0);
	CHECK(write(go[1], &p.reg.nr_mem_id, 2) == 2);
	SAME(recv_one(&p), 'f');
	send_one(&p, 'g');
	reap(child);
}

int
main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "polled", polled }, { "signalled", signalled },
		{ "refused", refused }, { "closed", closed },
		{ "anonymous", anonymous }, { "file", file },
		{ "passes_on", passes_on },
		{ NULL, NULL },
	};

	return run_tests(tests, argc, argv);
}
