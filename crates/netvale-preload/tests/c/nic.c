/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Both ends of a cable, v0 and v1, driven by this program itself. */
#include "t.h"

static struct port a, b;

static void
up(void)
{
	a = port("v0");
	b = port("v1");
}

/* The server does nothing from now on, or goes on. */
static void
server(int sig)
{
	const char *pid = getenv("NETVALE_TEST_SERVER");
	char path[64], stat[256], *state;
	FILE *f;

	CHECK(pid && atoi(pid) > 0);
	CHECK(kill(atoi(pid), sig) == 0);
	snprintf(path, sizeof(path), "/proc/%d/stat", atoi(pid));
	for (int i = 0; sig == SIGSTOP; i++) {
		CHECK(i < 2000);
		CHECK((f = fopen(path, "r")) != NULL);
		CHECK(fgets(stat, sizeof(stat), f) != NULL);
		fclose(f);
		state = strrchr(stat, ')');
		if (state && state[2] == 'T')
			return;
		pause_ms(5);
	}
}

static void *
later(void *mark)
{
	pause_ms(50);
	send_one(&a, (int)(intptr_t)mark);
	return NULL;
}

/* Something comes on b a moment later. */
static void
soon(pthread_t *th, int mark)
{
	CHECK(pthread_create(th, NULL, later, (void *)(intptr_t)mark) == 0);
}

static void
alone(void)
{
	struct pollfd f = { .events = POLLIN };
	struct epoll_event e = { .events = EPOLLIN, .data.u32 = 77 }, got;
	struct timeval t = { PATIENCE_MS / 1000, 0 };
	pthread_t th;
	fd_set set;
	int ep, n;

	up();
	server(SIGSTOP);
	for (int i = 0; i < 200; i++) {
		send_one(i % 2 ? &a : &b, i % 100);
		SAME(recv_one(i % 2 ? &b : &a), i % 100);
	}
	/* As many as a ring has, in one go. */
	n = nm_ring_space(txr(&a, 0));
	for (int i = 0; i < n; i++)
		queue(&a, i % 100, 60 + i % 1000);
	CHECK(ioctl(a.fd, NIOCTXSYNC, NULL) == 0);
	SAME(nm_ring_space(txr(&a, 0)), n);
	for (int i = 0; i < n; i++)
		SAME(recv_one(&b), i % 100);
	/* Asleep, it is woken. */
	nothing(&b);
	f.fd = b.fd;
	soon(&th, 1);
	SAME(poll(&f, 1, PATIENCE_MS), 1);
	SAME(f.revents, POLLIN);
	SAME(take(&b), 1);
	pthread_join(th, NULL);
	soon(&th, 2);
	FD_ZERO(&set);
	FD_SET(b.fd, &set);
	SAME(select(b.fd + 1, &set, NULL, NULL, &t), 1);
	SAME(take(&b), 2);
	pthread_join(th, NULL);
	CHECK((ep = epoll_create1(0)) >= 0);
	CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, b.fd, &e) == 0);
	SAME(epoll_wait(ep, &got, 1, SOON_MS), 0);
	soon(&th, 3);
	SAME(epoll_wait(ep, &got, 1, PATIENCE_MS), 1);
	SAME(got.data.u32, 77);
	SAME(got.events, EPOLLIN);
	SAME(take(&b), 3);
	pthread_join(th, NULL);
	/* It waits for space, which there is, and then for frames again. */
	e.events = EPOLLOUT;
	CHECK(epoll_ctl(ep, EPOLL_CTL_MOD, b.fd, &e) == 0);
	SAME(epoll_wait(ep, &got, 1, PATIENCE_MS), 1);
	SAME(got.events, EPOLLOUT);
	e.events = EPOLLIN;
	CHECK(epoll_ctl(ep, EPOLL_CTL_MOD, b.fd, &e) == 0);
	SAME(epoll_wait(ep, &got, 1, SOON_MS), 0);
	soon(&th, 4);
	SAME(epoll_wait(ep, &got, 1, PATIENCE_MS), 1);
	SAME(take(&b), 4);
	pthread_join(th, NULL);
	CHECK(epoll_ctl(ep, EPOLL_CTL_DEL, b.fd, NULL) == 0);
	close(ep);
	server(SIGCONT);
	unport(&a);
	unport(&b);
}

/* Parent and child use the same port. */
static void
forked(void)
{
	int ready[2];
	pid_t pid;
	char c;

	up();
	send_one(&a, 1);
	SAME(recv_one(&b), 1);
	CHECK(pipe(ready) == 0);
	CHECK((pid = fork()) >= 0);
	if (pid == 0) {
		/* What the child sends, the child itself gets. */
		for (int i = 0; i < 50; i++) {
			send_one(&a, i);
			SAME(recv_one(&b), i);
		}
		CHECK(write(ready[1], "x", 1) == 1);
		/* Killed in the middle of something. */
		for (;;) {
			queue(&a, 200, 60);
			CHECK(ioctl(a.fd, NIOCTXSYNC, NULL) == 0);
			CHECK(ioctl(b.fd, NIOCRXSYNC, NULL) == 0);
			while (take(&b) >= 0)
				;
		}
	}
	CHECK(read(ready[0], &c, 1) == 1);
	pause_ms(20);
	CHECK(kill(pid, SIGKILL) == 0);
	CHECK(waitpid(pid, NULL, 0) == pid);
	for (int i = 0; i < 20; i++) {
		CHECK(ioctl(b.fd, NIOCRXSYNC, NULL) == 0);
		while (take(&b) >= 0)
			;
		pause_ms(1);
	}
	for (int i = 0; i < 50; i++) {
		int mark;

		send_one(&a, i);
		/* What the child had handed over is sent first. */
		while ((mark = recv_one(&b)) == 200)
			;
		SAME(mark, i);
	}
	unport(&a);
	unport(&b);
}

/* A registration handed to a process that knows nothing of it. */
static void
daemons(void)
{
	struct port c;
	pid_t pid;
	int status[2];
	char ok = 0;

	c = port("v0");
	b = port("v1");
	CHECK(pipe(status) == 0);
	CHECK((pid = fork()) >= 0);
	if (pid > 0) {
		/* The parent goes at once, as those of daemons do. */
		close(status[1]);
		reap(pid);
		CHECK(read(status[0], &ok, 1) == 1);
		SAME(ok, 'y');
		return;
	}
	if ((pid = fork()) != 0)
		_exit(0);
	for (int i = 0; i < 50; i++) {
		send_one(&c, i);
		SAME(recv_one(&b), i);
		send_one(&b, i);
		SAME(recv_one(&c), i);
	}
	CHECK(write(status[1], "y", 1) == 1);
	_exit(0);
}

/* The server dies, and with it what feeds the queues. */
static void
orphaned(void)
{
	struct pollfd f = { .events = POLLIN };
	struct epoll_event e = { .events = EPOLLIN }, got;
	int ep;

	up();
	send_one(&a, 1);
	SAME(recv_one(&b), 1);
	nothing(&b);
	server(SIGKILL);
	f.fd = b.fd;
	SAME(poll(&f, 1, PATIENCE_MS), 1);
	CHECK(f.revents & POLLERR);
	CHECK((ep = epoll_create1(0)) >= 0);
	e.data.u32 = 5;
	CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, a.fd, &e) == 0);
	SAME(epoll_wait(ep, &got, 1, PATIENCE_MS), 1);
	CHECK(got.events & EPOLLERR);
	close(ep);
}

/* The same for one who never waits for long, and for one who never waits. */
static void
orphaned_busy(void)
{
	struct epoll_event e = { .events = EPOLLIN }, got;
	struct pollfd f = { .events = POLLIN };
	long end;
	int ep;

	up();
	send_one(&a, 1);
	SAME(recv_one(&b), 1);
	CHECK((ep = epoll_create1(0)) >= 0);
	CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, b.fd, &e) == 0);
	SAME(epoll_wait(ep, &got, 1, 1), 0);
	server(SIGKILL);
	end = now_ms() + PATIENCE_MS;
	f.fd = a.fd;
	while (poll(&f, 1, 1) == 0)
		CHECK(now_ms() < end);
	CHECK(f.revents & POLLERR);
	while (epoll_wait(ep, &got, 1, 1) == 0)
		CHECK(now_ms() < end);
	CHECK(got.events & EPOLLERR);
	close(ep);
	/* What it sends still leaves. */
	CHECK(ioctl(a.fd, NIOCTXSYNC, NULL) == 0);
	f.events = POLLOUT;
	SAME(poll(&f, 1, PATIENCE_MS), 1);
	SAME(f.revents, POLLOUT);
}

static void
orphaned_sync(void)
{
	long end;

	up();
	send_one(&a, 1);
	SAME(recv_one(&b), 1);
	server(SIGKILL);
	end = now_ms() + PATIENCE_MS;
	while (ioctl(b.fd, NIOCRXSYNC, NULL) == 0)
		CHECK(now_ms() < end);
	SAME(errno, EIO);
}

/* Those who wait for space, or never wait, at an interface that the server
 * drives. */
static void
orphaned_tx(void)
{
	struct pollfd f = { .events = POLLOUT };
	long end;

	up();
	send_one(&a, 1);
	SAME(recv_one(&b), 1);
	server(SIGKILL);
	f.fd = a.fd;
	end = now_ms() + PATIENCE_MS;
	do {
		CHECK(now_ms() < end);
		while (nm_ring_space(txr(&a, 0)) > 0)
			queue(&a, 2, 60);
		CHECK(poll(&f, 1, PATIENCE_MS) == 1);
	} while (!(f.revents & POLLERR));
	end = now_ms() + PATIENCE_MS;
	while (ioctl(b.fd, NIOCTXSYNC, NULL) == 0)
		CHECK(now_ms() < end);
	SAME(errno, EIO);
}

/* An isolated program in front of a cable, and at a switch. */
static void
orphaned_far(void)
{
	struct pollfd f = { .events = POLLIN };
	struct port c;
	long end;

	up();
	c = port("vale0:c");
	send_one(&a, 1);
	SAME(recv_one(&b), 1);
	server(SIGKILL);
	f.fd = b.fd;
	SAME(poll(&f, 1, PATIENCE_MS), 1);
	CHECK(f.revents & POLLERR);
	f.fd = c.fd;
	f.events = POLLIN;
	SAME(poll(&f, 1, PATIENCE_MS), 1);
	CHECK(f.revents & POLLERR);
	end = now_ms() + PATIENCE_MS;
	while (ioctl(c.fd, NIOCTXSYNC, NULL) == 0)
		CHECK(now_ms() < end);
	SAME(errno, EIO);
	end = now_ms() + PATIENCE_MS;
	while (ioctl(a.fd, NIOCRXSYNC, NULL) == 0)
		CHECK(now_ms() < end);
	SAME(errno, EIO);
}

int
main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "alone", alone }, { "forked", forked },
		{ "daemons", daemons }, { "orphaned", orphaned },
		{ "orphaned_busy", orphaned_busy },
		{ "orphaned_sync", orphaned_sync },
		{ "orphaned_tx", orphaned_tx },
		{ "orphaned_far", orphaned_far }, { NULL, NULL },
	};

	return run_tests(tests, argc, argv);
}
