/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Programs that do everything wrong. They may harm themselves only. */
#include "t.h"

static struct port a, b;
static volatile int stop;

static unsigned
dice(unsigned *state)
{
	*state = *state * 1664525 + 1013904223;
	return *state >> 8;
}

/* Addresses and numbers that make no sense. */
static void
wild(void)
{
	static const uintptr_t addrs[] = { 0, 1, 8, 4095, 0x1000, 0x7fffffffffff,
		0x800000000000, ~0UL, ~0UL - 4095, 0xffff800000000000 };
	static const unsigned long cmds[] = { NIOCCTRL, NIOCREGIF, NIOCGINFO,
		NIOCCONFIG, 0, ~0UL, 0x5401 };
	unsigned n = sizeof(addrs) / sizeof(*addrs), seed = 7;
	struct nmreq_header h;
	struct epoll_event e;
	int ep = epoll_create1(0);
	struct port p;

	a = port("vale0:a");
	b = port("vale0:b");
	new_port(&p);
	for (unsigned c = 0; c < sizeof(cmds) / sizeof(*cmds); c++)
		for (unsigned i = 0; i < n; i++) {
			SAME(ioctl(p.fd, cmds[c], addrs[i]), -1);
			SAME(ioctl(a.fd, cmds[c], addrs[i]), -1);
		}
	for (int type = 0; type < 20; type++)
		for (unsigned i = 0; i < n; i++)
			for (unsigned j = 0; j < n; j++) {
				if (type == NETMAP_REQ_SYNC_KLOOP_STOP)
					continue;
				memset(&h, 0xff, sizeof(h));
				h.nr_version = NETMAP_API;
				h.nr_reqtype = type;
				h.nr_reserved = 0;
				h.nr_body = addrs[i];
				h.nr_options = addrs[j];
				SAME(ioctl(p.fd, NIOCCTRL, &h), -1);
			}
	/* Random bodies and options. */
	for (int i = 0; i < 3000; i++) {
		static uint64_t body[600], opt[600];

		for (int k = 0; k < 600; k++) {
			body[k] = dice(&seed) % 3 ? dice(&seed) % 5 : (uint64_t)dice(&seed) << 40;
			opt[k] = dice(&seed) % 6;
		}
		opt[0] = dice(&seed) % 2 ? (uintptr_t)(opt + 4) : 0;
		opt[4] = 0;
		memset(&h, 0, sizeof(h));
		h.nr_version = NETMAP_API;
		h.nr_reqtype = 1 + dice(&seed) % 15;
		if (h.nr_reqtype == NETMAP_REQ_SYNC_KLOOP_START)
			continue; /* might run */
		snprintf(h.nr_name, sizeof(h.nr_name), "vale%u:%c", dice(&seed) % 3,
			(char)(1 + dice(&seed) % 127));
		h.nr_body = dice(&seed) % 4 ? (uintptr_t)body : 0;
		h.nr_options = dice(&seed) % 4 ? 0 : (uintptr_t)opt;
		if (ioctl(p.fd, NIOCCTRL, &h) == 0) {
			close(p.fd);
			new_port(&p);
		}
	}
	for (unsigned i = 0; i < n; i++) {
		CHECK(mmap((void *)0, addrs[i], PROT_READ, MAP_SHARED, a.fd,
			(off_t)(addrs[n - 1 - i] & ~4095UL)) == MAP_FAILED
			|| addrs[i] <= a.reg.nr_memsize);
		FAILS(epoll_ctl(ep, EPOLL_CTL_ADD, a.fd, (void *)8), EFAULT);
		CHECK(epoll_ctl(ep, 77, a.fd, &e) == -1);
	}
	send_one(&a, 1);
	SAME(recv_one(&b), 1);
}

/* Overwrites everything that it can reach, but keeps its own head sane now
 * and then, so that syncs have something to do. */
static void *
scribbler(void *arg)
{
	struct port *p = arg;
	unsigned seed = 3;

	while (!stop) {
		struct netmap_ring *r = dice(&seed) % 2 ? NETMAP_TXRING(p->nifp, 0)
			: (struct netmap_ring *)((char *)p->nifp + p->nifp->ring_ofs[1]);
		volatile uint32_t *words = (volatile uint32_t *)r;

		for (int i = 0; i < 50; i++) {
			unsigned at = dice(&seed) % ((256 + 16 * 64) / 4);

			/* Not the place of the buffers: it is us who use it. */
			if (at < 2)
				continue;
			words[at] = dice(&seed) % 3 ? dice(&seed) % 1024 : dice(&seed) << 8;
		}
		r->head = dice(&seed) % 1024;
		r->cur = r->head;
	}
	return NULL;
}

static void
scribble(void)
{
	struct pollfd f = { .events = POLLIN | POLLOUT };
	long long end;
	pthread_t t;
	struct port victim = port("vale0:v"), sender = port("vale0:s");
	int got = 0;

	a = port("vale0:a");
	f.fd = a.fd;
	pthread_create(&t, NULL, scribbler, &a);
	end = now_ms() + 1500;
	while (now_ms() < end) {
		for (int i = 0; i < 50; i++) {
			CHECK(ioctl(a.fd, NIOCTXSYNC, NULL) == 0);
			CHECK(ioctl(a.fd, NIOCRXSYNC, NULL) == 0);
			CHECK(poll(&f, 1, 0) >= 0);
		}
		/* Others are served all the while. */
		send_one(&sender, 0xc3);
		for (int m; (m = take(&victim)) >= 0;)
			got += m == 0xc3;
		CHECK(ioctl(victim.fd, NIOCRXSYNC, NULL) == 0);
	}
	stop = 1;
	pthread_join(t, NULL);
	CHECK(got > 0);
	/* The victim's own rings are as they should be. */
	CHECK(ioctl(victim.fd, NIOCRXSYNC, NULL) == 0);
	while (take(&victim) >= 0)
		;
	CHECK(ioctl(victim.fd, NIOCRXSYNC, NULL) == 0);
	unport(&a);
	send_one(&sender, 0x11);
	SAME(recv_one(&victim), 0x11);
}

/* Threads that open, close, map, sync, wait on the same few descriptors. */
static int numbers[4];

static void *
racer(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;
	struct port p;

	while (!stop) {
		int *n = &numbers[dice(&seed) % 4];
		int fd = __atomic_load_n(n, __ATOMIC_RELAXED);
		struct pollfd f = { .fd = fd, .events = POLLIN | POLLOUT };
		struct epoll_event e = { .events = EPOLLIN }, out;
		int ep;
		void *m;

		switch (dice(&seed) % 9) {
		case 0:
			if (__atomic_compare_exchange_n(n, &fd, -1, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
				close(fd);
			break;
		case 1:
			new_port(&p);
			p.reg.nr_mode = NR_REG_ALL_NIC;
			request(p.fd, NETMAP_REQ_REGISTER, dice(&seed) % 2 ? "vale0:r" : "x{1",
				&p.reg, NULL);
			fd = __atomic_exchange_n(n, p.fd, __ATOMIC_RELAXED);
			close(fd);
			break;
		case 2:
			ioctl(fd, NIOCTXSYNC, NULL);
			break;
		case 3:
			ioctl(fd, NIOCRXSYNC, NULL);
			break;
		case 4:
			poll(&f, 1, 1);
			break;
		case 5:
			m = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
			if (m != MAP_FAILED)
				munmap(m, 8192);
			break;
		case 6:
			close(dup(fd));
			break;
		case 7:
			ep = epoll_create1(0);
			epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
			epoll_wait(ep, &out, 1, 0);
			close(ep);
			break;
		default:
			ioctl(fd, NIOCTXSYNC, NULL);
			ioctl(fd, NIOCRXSYNC, NULL);
		}
	}
	return NULL;
}

static void
race(void)
{
	pthread_t t[6];
	int before;

	memset(numbers, -1, sizeof(numbers));
	a = port("vale0:a");
	before = open_fds();
	for (uintptr_t i = 0; i < 6; i++)
		pthread_create(&t[i], NULL, racer, (void *)(i + 1));
	pause_ms(2500);
	stop = 1;
	for (int i = 0; i < 6; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < 4; i++)
		close(numbers[i]);
	SAME(open_fds(), before);
	b = port("vale0:b");
	send_one(&a, 1);
	SAME(recv_one(&b), 1);
}

/* Works until it is killed. */
static void
victim(void)
{
	struct pollfd f[3] = { { .events = POLLIN | POLLOUT },
		{ .events = POLLIN | POLLOUT }, { .events = POLLIN | POLLOUT } };
	struct port p[3];

	for (;;) {
		p[0] = port("vale0:k");
		p[1] = port("k{1");
		p[2] = port("k}1");
		for (int i = 0; i < 3; i++)
			f[i].fd = p[i].fd;
		for (int i = 0; i < 2000; i++) {
			for (int k = 0; k < 3; k++)
				if (!nm_ring_empty(txr(&p[k], 0)))
					queue(&p[k], i & 127, 60 + i % 500);
			CHECK(poll(f, 3, 0) >= 0);
			for (int k = 0; k < 3; k++)
				take(&p[k]);
		}
		for (int i = 0; i < 3; i++)
			unport(&p[i]);
	}
}

int
main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "wild", wild }, { "scribble", scribble }, { "race", race },
		{ "victim", victim }, { NULL, NULL },
	};

	return run_tests(tests, argc, argv);
}
