/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the programs of these tests share: a port by hand, and loud checks. */
#ifndef T_H
#define T_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <net/netmap_user.h>

/* Long enough for the slowest machine, when something must happen. */
#define PATIENCE_MS 20000
/* Short, when nothing may happen. */
#define SOON_MS 60

#define CHECK(x) do { \
	if (!(x)) { \
		fprintf(stderr, "%s:%d: %s (errno %d: %s)\n", __FILE__, \
			__LINE__, #x, errno, strerror(errno)); \
		_exit(1); \
	} \
} while (0)

#define SAME(a, b) do { \
	long long _a = (long long)(a), _b = (long long)(b); \
	if (_a != _b) { \
		fprintf(stderr, "%s:%d: %s is %lld, %s is %lld\n", __FILE__, \
			__LINE__, #a, _a, #b, _b); \
		_exit(1); \
	} \
} while (0)

/* The call fails with this number. */
#define FAILS(call, number) do { \
	errno = 0; \
	long long _r = (long long)(call); \
	int _e = errno; \
	if (_r != -1 || _e != (number)) { \
		fprintf(stderr, "%s:%d: %s is %lld, errno %d (%s), not %d\n", \
			__FILE__, __LINE__, #call, _r, _e, strerror(_e), \
			(number)); \
		_exit(1); \
	} \
} while (0)

/* Whether the server moves our frames: then syncs take effect a moment later. */
static inline int
isolated(void)
{
	const char *s = getenv("NETVALE_ISOLATED");

	return s && *s && *s != '0';
}

struct port {
	int fd;
	struct nmreq_register reg;
	char *mem;
	struct netmap_if *nifp;
};

static inline int
request(int fd, int type, const char *name, void *body, struct nmreq_option *opt)
{
	struct nmreq_header h;

	memset(&h, 0, sizeof(h));
	h.nr_version = NETMAP_API;
	h.nr_reqtype = type;
	if (name)
		strncpy(h.nr_name, name, sizeof(h.nr_name) - 1);
	h.nr_body = (uintptr_t)body;
	h.nr_options = (uintptr_t)opt;
	return ioctl(fd, NIOCCTRL, &h);
}

/* 0, or the number of the error. */
static inline int
try_reg(struct port *p, const char *name, struct nmreq_option *opt)
{
	if (p->reg.nr_mode == NR_REG_DEFAULT)
		p->reg.nr_mode = NR_REG_ALL_NIC;
	return request(p->fd, NETMAP_REQ_REGISTER, name, &p->reg, opt) ? errno : 0;
}

static inline void
map(struct port *p)
{
	p->mem = mmap(NULL, p->reg.nr_memsize, PROT_READ | PROT_WRITE,
		MAP_SHARED, p->fd, 0);
	CHECK(p->mem != MAP_FAILED);
	p->nifp = NETMAP_IF(p->mem, p->reg.nr_offset);
}

static inline void
new_port(struct port *p)
{
	memset(p, 0, sizeof(*p));
	p->fd = open("/dev/netmap", O_RDWR);
	CHECK(p->fd >= 0);
}

static inline struct port
port_with(const char *name, uint32_t mode, uint16_t ringid, uint64_t flags)
{
	struct port p;

	new_port(&p);
	p.reg.nr_mode = mode;
	p.reg.nr_ringid = ringid;
	p.reg.nr_flags = flags;
	SAME(try_reg(&p, name, NULL), 0);
	map(&p);
	return p;
}

static inline struct port
port(const char *name)
{
	return port_with(name, NR_REG_ALL_NIC, 0, 0);
}

static inline void
unport(struct port *p)
{
	CHECK(munmap(p->mem, p->reg.nr_memsize) == 0);
	CHECK(close(p->fd) == 0);
}

static inline struct netmap_ring *
txr(struct port *p, int i)
{
	CHECK(p->nifp->ring_ofs[i] != 0);
	return NETMAP_TXRING(p->nifp, i);
}

static inline struct netmap_ring *
rxr(struct port *p, int i)
{
	CHECK(p->nifp->ring_ofs[i + p->nifp->ni_tx_rings
		+ p->nifp->ni_host_tx_rings] != 0);
	return NETMAP_RXRING(p->nifp, i);
}

/* A broadcast frame whose payload is `mark` all over. */
static inline void
fill(char *frame, int len, int mark)
{
	memset(frame, mark, len);
	memset(frame, 0xff, 6);
	memcpy(frame + 6, "\x02\0\0\0\0\x09", 6);
	memcpy(frame + 12, "\x88\xb5", 2);
}

/* Queues one frame; nothing is sent yet. */
static inline void
queue(struct port *p, int mark, int len)
{
	struct netmap_ring *r = txr(p, 0);
	struct netmap_slot *s = &r->slot[r->head];

	CHECK(!nm_ring_empty(r));
	fill(NETMAP_BUF(r, s->buf_idx), len, mark);
	s->len = len;
	s->flags = 0;
	r->head = r->cur = nm_ring_next(r, r->head);
}

static inline void
send_one(struct port *p, int mark)
{
	queue(p, mark, 60);
	CHECK(ioctl(p->fd, NIOCTXSYNC, NULL) == 0);
}

/* Takes a frame if there is one: its mark, or -1. Syncs only at the end. */
static inline int
take(struct port *p)
{
	struct netmap_ring *r = rxr(p, 0);
	int mark;

	if (nm_ring_empty(r))
		return -1;
	mark = (unsigned char)NETMAP_BUF(r, r->slot[r->head].buf_idx)[20];
	r->head = r->cur = nm_ring_next(r, r->head);
	return mark;
}

/* Waits for a frame: its mark. */
static inline int
recv_one(struct port *p)
{
	struct pollfd f = { .fd = p->fd, .events = POLLIN };

	for (int i = 0; nm_ring_empty(rxr(p, 0)); i++) {
		CHECK(i < 10000);
		CHECK(poll(&f, 1, PATIENCE_MS) == 1);
		SAME(f.revents, POLLIN);
	}
	return take(p);
}

static inline void
nothing(struct port *p)
{
	struct pollfd f = { .fd = p->fd, .events = POLLIN };

	SAME(poll(&f, 1, SOON_MS), 0);
}

static inline long long
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static inline void
pause_ms(int ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000L };

	while (nanosleep(&t, &t) < 0 && errno == EINTR)
		;
}

/* Waits for a child and expects it to be content. */
static inline void
reap(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	SAME(status, 0);
}

static inline int
open_fds(void)
{
	int n = 0;

	/* Only what the program can see counts: dup fails for nothing else. */
	for (int i = 0; i < 1024; i++)
		n += fcntl(i, F_GETFD) >= 0;
	return n;
}

struct test {
	const char *name;
	void (*run)(void);
};

/* Runs the test that the argument names. */
static inline int
run_tests(const struct test *t, int argc, char **argv)
{
	for (; argc > 1 && t->name; t++)
		if (strcmp(t->name, argv[1]) == 0) {
			alarm(100);
			t->run();
			return 0;
		}
	fprintf(stderr, "no such test\n");
	return 2;
}

#endif
