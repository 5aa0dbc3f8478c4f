/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* epoll, and instances inside other waits. */
#include "t.h"

static struct port a, b;

static void
up(void)
{
	a = port("vale0:a");
	b = port("vale0:b");
}

/* Sends a frame from a to b after a while. */
static void *
later(void *arg)
{
	(void)arg;
	pause_ms(30);
	send_one(&a, 'l');
	return NULL;
}

static int
ep_with(struct port *p, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.u64 = 77 };
	int ep = epoll_create1(EPOLL_CLOEXEC);

	CHECK(ep >= 0);
	errno = 0;
	CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, p->fd, &e) == 0);
	SAME(errno, 0);
	return ep;
}

static void
ep_level(void)
{
	struct epoll_event e[4], m = { .events = EPOLLIN | EPOLLOUT };
	pthread_t t;
	int ep, p[2];

	up();
	ep = ep_with(&b, EPOLLIN);
	FAILS(epoll_ctl(ep, EPOLL_CTL_ADD, b.fd, &m), EEXIST);
	FAILS(epoll_ctl(ep, EPOLL_CTL_MOD, a.fd, &m), ENOENT);
	FAILS(epoll_ctl(ep, EPOLL_CTL_DEL, a.fd, NULL), ENOENT);
	FAILS(epoll_ctl(ep, EPOLL_CTL_MOD, b.fd, (void *)8), EFAULT);
	FAILS(epoll_ctl(b.fd, EPOLL_CTL_ADD, a.fd, &m), EINVAL);
	FAILS(epoll_ctl(999, EPOLL_CTL_ADD, a.fd, &m), EBADF);
	FAILS(epoll_wait(ep, e, 0, 0), EINVAL);
	SAME(epoll_wait(ep, e, 4, 0), 0);
	SAME(epoll_wait(ep, e, 4, SOON_MS), 0);
	pthread_create(&t, NULL, later, NULL);
	SAME(epoll_wait(ep, e, 4, -1), 1);
	CHECK(e[0].events == EPOLLIN && e[0].data.u64 == 77);
	SAME(epoll_wait(ep, e, 4, 0), 1);
	pthread_join(t, NULL);
	m.data.u64 = 78;
	CHECK(epoll_ctl(ep, EPOLL_CTL_MOD, b.fd, &m) == 0);
	SAME(epoll_wait(ep, e, 4, 0), 1);
	CHECK(e[0].events == (EPOLLIN | EPOLLOUT) && e[0].data.u64 == 78);
	/* Together with others. */
	CHECK(pipe(p) == 0);
	m.events = EPOLLIN;
	m.data.u64 = 5;
	CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &m) == 0);
	CHECK(write(p[1], "x", 1) == 1);
	SAME(epoll_wait(ep, e, 4, 1000), 2);
	CHECK(e[0].data.u64 + e[1].data.u64 == 83);
	take(&b);
	CHECK(epoll_ctl(ep, EPOLL_CTL_DEL, b.fd, NULL) == 0);
	SAME(epoll_wait(ep, e, 4, 1000), 1);
	SAME(e[0].data.u64, 5);
	/* An instance with one event of room serves all in turn. */
	m.events = EPOLLOUT;
	m.data.u64 = 6;
	CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, a.fd, &m) == 0);
	m.data.u64 = 7;
	CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, b.fd, &m) == 0);
	int seen = 0;
	for (int i = 0; i < 20; i++) {
		SAME(epoll_wait(ep, e, 1, 1000), 1);
		seen |= 1 << e[0].data.u64;
	}
	CHECK((seen & 1 << 6) && (seen & 1 << 7));
	/* Closing takes it out. */
	CHECK(epoll_ctl(ep, EPOLL_CTL_DEL, p[0], NULL) == 0);
	unport(&a);
	unport(&b);
	SAME(epoll_wait(ep, e, 4, 0), 0);
}

static void
ep_edge(void)
{
	struct epoll_event e;
	int ep;

	up();
	ep = ep_with(&b, EPOLLIN | EPOLLET);
	send_one(&a, 1);
	SAME(epoll_wait(ep, &e, 1, PATIENCE_MS), 1);
	/* Not taken, but reported. */
	SAME(epoll_wait(ep, &e, 1, SOON_MS), 0);
	send_one(&a, 2);
	SAME(epoll_wait(ep, &e, 1, PATIENCE_MS), 1);
	SAME(take(&b), 1);
	SAME(take(&b), 2);
	SAME(epoll_wait(ep, &e, 1, SOON_MS), 0);
	for (int i = 0; i < 2000; i++) {
		send_one(&a, i & 127);
		SAME(epoll_wait(ep, &e, 1, PATIENCE_MS), 1);
		SAME(take(&b), i & 127);
	}
}

static void
ep_once(void)
{
	struct epoll_event e, m = { .events = EPOLLIN | EPOLLONESHOT };
	int ep;

	up();
	ep = ep_with(&b, EPOLLIN | EPOLLONESHOT);
	send_one(&a, 1);
	SAME(epoll_wait(ep, &e, 1, PATIENCE_MS), 1);
	SAME(take(&b), 1);
	send_one(&a, 2);
	SAME(epoll_wait(ep, &e, 1, SOON_MS), 0);
	CHECK(epoll_ctl(ep, EPOLL_CTL_MOD, b.fd, &m) == 0);
	SAME(epoll_wait(ep, &e, 1, PATIENCE_MS), 1);
	SAME(take(&b), 2);
}

/* Edge-triggered, both directions, over a pipe that is often full: every
 * wait must end. */
static void *
ep_receiver(void *arg)
{
	struct port *p = arg;
	struct epoll_event e;
	int ep = ep_with(p, EPOLLIN | EPOLLET), n = 0;

	while (n < 20000) {
		SAME(epoll_wait(ep, &e, 1, PATIENCE_MS), 1);
		while (take(p) >= 0)
			n++;
		CHECK(ioctl(p->fd, NIOCRXSYNC, NULL) == 0);
		while (take(p) >= 0)
			n++;
	}
	SAME(n, 20000);
	return NULL;
}

static void
ep_full(void)
{
	struct port m = port("x{1"), s = port("x}1");
	struct epoll_event e;
	int ep = ep_with(&m, EPOLLIN | EPOLLOUT | EPOLLET);
	pthread_t t;

	pthread_create(&t, NULL, ep_receiver, &s);
	for (int n = 0; n < 20000;) {
		SAME(epoll_wait(ep, &e, 1, PATIENCE_MS), 1);
		while (n < 20000 && !nm_ring_empty(txr(&m, 0))) {
			queue(&m, 'x', 60);
			n++;
		}
		CHECK(ioctl(m.fd, NIOCTXSYNC, NULL) == 0);
		while (n < 20000 && !nm_ring_empty(txr(&m, 0))) {
			queue(&m, 'x', 60);
			n++;
		}
		CHECK(ioctl(m.fd, NIOCTXSYNC, NULL) == 0);
	}
	pthread_join(t, NULL);
}

/* poll and select of an instance with a registration in it. */
static void
nested(void)
{
	struct pollfd f = { .events = POLLIN };
	struct epoll_event e, m = { .events = EPOLLIN, .data.u64 = 1 };
	struct timeval tv = { 20, 0 };
	fd_set set;
	pthread_t t;
	int ep, p[2];

	up();
	ep = ep_with(&b, EPOLLIN);
	f.fd = ep;
	SAME(poll(&f, 1, SOON_MS), 0);
	pthread_create(&t, NULL, later, NULL);
	SAME(poll(&f, 1, PATIENCE_MS), 1);
	SAME(f.revents, POLLIN);
	SAME(epoll_wait(ep, &e, 1, 0), 1);
	SAME(take(&b), 'l');
	pthread_join(t, NULL);
	SAME(poll(&f, 1, SOON_MS), 0);
	/* Another member of the instance. */
	CHECK(pipe(p) == 0 && epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &m) == 0);
	SAME(poll(&f, 1, SOON_MS), 0);
	CHECK(write(p[1], "x", 1) == 1);
	SAME(poll(&f, 1, PATIENCE_MS), 1);
	CHECK(read(p[0], &e, 1) == 1);
	send_one(&a, 'n');
	FD_ZERO(&set);
	FD_SET(ep, &set);
	SAME(select(ep + 1, &set, NULL, NULL, &tv), 1);
	SAME(recv_one(&b), 'n');
}

int
main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "level", ep_level }, { "edge", ep_edge },
		{ "once", ep_once }, { "full", ep_full },
		{ "nested", nested }, { NULL, NULL },
	};

	return run_tests(tests, argc, argv);
}
