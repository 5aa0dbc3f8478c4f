/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Waiting: poll, select, epoll and their variants. */
#include "t.h"

static struct port a, b;
static volatile int handled;

static void
handler(int sig)
{
	(void)sig;
	handled = 1;
}

static void
catch(int sig)
{
	struct sigaction sa = { .sa_handler = handler };

	sigaction(sig, &sa, NULL);
}

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
	pause_ms(arg ? *(int *)arg : 30);
	send_one(&a, 'l');
	return NULL;
}

static void
level(void)
{
	struct pollfd f = { .fd = 0, .events = POLLIN };
	pthread_t t;

	up();
	f.fd = b.fd;
	SAME(poll(&f, 1, 0), 0);
	pthread_create(&t, NULL, later, NULL);
	SAME(poll(&f, 1, PATIENCE_MS), 1);
	SAME(f.revents, POLLIN);
	/* Until it is taken. */
	SAME(poll(&f, 1, -1), 1);
	SAME(take(&b), 'l');
	SAME(poll(&f, 1, 0), 0);
	pthread_join(t, NULL);
}

static void
both(void)
{
	struct pollfd f = { .fd = 0, .events = POLLIN | POLLOUT };

	up();
	f.fd = b.fd;
	SAME(poll(&f, 1, PATIENCE_MS), 1);
	SAME(f.revents, POLLOUT);
	send_one(&a, 1);
	f.events = POLLIN;
	SAME(poll(&f, 1, PATIENCE_MS), 1);
	f.events = POLLIN | POLLOUT;
	SAME(poll(&f, 1, PATIENCE_MS), 1);
	SAME(f.revents, POLLIN | POLLOUT);
	/* Asked for nothing: nothing. */
	f.events = 0;
	SAME(poll(&f, 1, 0), 0);
	SAME(f.revents, 0);
}

/* A full pipe is not writable until its receiver has given slots back. */
static void
full(void)
{
	struct port m = port("x{1"), s = port("x}1");
	struct pollfd f = { .fd = m.fd, .events = POLLOUT };
	struct netmap_ring *r = txr(&m, 0);
	pid_t child;
	long long t;

	while (!nm_ring_empty(r))
		queue(&m, 'p', 60);
	SAME(poll(&f, 1, SOON_MS), 0);
	child = fork();
	if (child == 0) {
		pause_ms(50);
		SAME(recv_one(&s), 'p');
		CHECK(ioctl(s.fd, NIOCRXSYNC, NULL) == 0);
		_exit(0);
	}
	t = now_ms();
	SAME(poll(&f, 1, PATIENCE_MS), 1);
	CHECK(now_ms() - t < 5000);
	SAME(f.revents, POLLOUT);
	SAME(nm_ring_space(r), 1);
	reap(child);
}

static void
flush(void)
{
	struct pollfd f = { .fd = 0, .events = POLLIN };

	up();
	queue(&a, 'f', 60);
	nothing(&b);
	f.fd = a.fd;
	SAME(poll(&f, 1, 0), 0);
	SAME(recv_one(&b), 'f');
}

static void
no_tx_poll(void)
{
	struct pollfd f = { .fd = 0, .events = POLLIN };

	a = port_with("vale0:a", NR_REG_ALL_NIC, 0, NR_NO_TX_POLL);
	b = port("vale0:b");
	queue(&a, 'n', 60);
	f.fd = a.fd;
	SAME(poll(&f, 1, 0), 0);
	nothing(&b);
	f.events = POLLOUT;
	SAME(poll(&f, 1, 0), 1);
	SAME(recv_one(&b), 'n');
}

static void
errors(void)
{
	struct pollfd f = { .events = POLLIN | POLLOUT };
	struct port p;
	struct netmap_ring *r;
	fd_set set;
	struct timeval tv = { 0, 0 };

	/* Not bound. */
	new_port(&p);
	f.fd = p.fd;
	SAME(poll(&f, 1, PATIENCE_MS), 1);
	SAME(f.revents, POLLERR);
	FD_ZERO(&set);
	FD_SET(p.fd, &set);
	SAME(select(p.fd + 1, &set, NULL, NULL, &tv), 1);
	CHECK(FD_ISSET(p.fd, &set));
	/* Bad words of a ring. */
	up();
	r = txr(&a, 0);
	r->head = 5;
	r->cur = 4;
	f.fd = a.fd;
	SAME(poll(&f, 1, PATIENCE_MS), 1);
	CHECK(f.revents & POLLERR);
	r->cur = r->head = r->num_slots;
	SAME(poll(&f, 1, PATIENCE_MS), 1);
	CHECK(f.revents & POLLERR);
	/* It was put right. */
	for (int i = 0; isolated() && r->head != 0 && i < 2000; i++)
		pause_ms(1);
	SAME(r->head, 0);
	SAME(r->cur, 0);
	send_one(&a, 'e');
	SAME(recv_one(&b), 'e');
	/* Closed. */
	close(p.fd);
	f.fd = p.fd;
	SAME(poll(&f, 1, PATIENCE_MS), 1);
	SAME(f.revents, POLLNVAL);
}

static void
mixed(void)
{
	struct port c = port("vale0:c");
	struct pollfd f[24];
	int p[2], s[2];

	up();
	CHECK(pipe(p) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
	/* More than fit into any small array; some are no descriptors. */
	for (int i = 0; i < 24; i++)
		f[i] = (struct pollfd){ .fd = -1, .events = POLLIN, .revents = 7 };
	f[0].fd = p[0];
	f[3].fd = b.fd;
	f[11].fd = s[0];
	f[17].fd = c.fd;
	f[23].fd = a.fd;
	SAME(poll(f, 24, SOON_MS), 0);
	for (int i = 0; i < 24; i++)
		SAME(f[i].revents, 0);
	/* A broadcast: two of three. */
	send_one(&a, 'm');
	SAME(poll(&f[3], 1, PATIENCE_MS), 1);
	SAME(poll(&f[17], 1, PATIENCE_MS), 1);
	SAME(poll(f, 24, PATIENCE_MS), 2);
	CHECK(f[3].revents == POLLIN && f[17].revents == POLLIN);
	CHECK(write(p[1], "x", 1) == 1);
	SAME(poll(f, 24, PATIENCE_MS), 3);
	SAME(f[0].revents, POLLIN);
	take(&b);
	take(&c);
	SAME(poll(f, 24, PATIENCE_MS), 1);
	/* The kernel's own events wake, too. */
	CHECK(read(p[0], f, 1) == 1);
	f[0] = (struct pollfd){ .fd = p[0], .events = POLLIN };
	close(s[1]);
	SAME(poll(f, 24, PATIENCE_MS), 1);
	CHECK(f[11].revents & POLLHUP);
	/* A number that is not open. */
	f[11].fd = 1000;
	SAME(poll(f, 24, PATIENCE_MS), 1);
	SAME(f[11].revents, POLLNVAL);
}

static void
timeout(void)
{
	struct pollfd f = { .events = POLLIN };
	struct timespec ts = { 0, 80 * 1000 * 1000 };
	struct timeval tv = { 0, 80 * 1000 };
	fd_set set;
	long long t;

	up();
	f.fd = b.fd;
	t = now_ms();
	SAME(poll(&f, 1, 80), 0);
	CHECK(now_ms() - t >= 79);
	t = now_ms();
	SAME(ppoll(&f, 1, &ts, NULL), 0);
	CHECK(now_ms() - t >= 79);
	SAME(ts.tv_nsec, 80 * 1000 * 1000);
	FD_ZERO(&set);
	FD_SET(b.fd, &set);
	t = now_ms();
	SAME(select(b.fd + 1, &set, NULL, NULL, &tv), 0);
	CHECK(now_ms() - t >= 79);
	SAME(tv.tv_usec, 0);
	CHECK(!FD_ISSET(b.fd, &set));
	ts.tv_nsec = 1000000000;
	FAILS(ppoll(&f, 1, &ts, NULL), EINVAL);
	tv = (struct timeval){ -1, 0 };
	FAILS(select(b.fd + 1, &set, NULL, NULL, &tv), EINVAL);
}

static volatile int waited;

/* Again and again: the first may come before the other one waits. */
static void *
killer(void *arg)
{
	for (int i = 0; i < 1000 && !waited; i++) {
		pause_ms(20);
		pthread_kill(*(pthread_t *)arg, SIGUSR1);
	}
	return NULL;
}

static void
interrupted(void)
{
	struct pollfd f = { .events = POLLIN };
	pthread_t self = pthread_self(), t;
	struct epoll_event e = { .events = EPOLLIN };
	fd_set set;
	int ep;

	up();
	catch(SIGUSR1);
	f.fd = b.fd;
	for (int round = 0; round < 3; round++) {
		handled = waited = 0;
		pthread_create(&t, NULL, killer, &self);
		if (round == 0) {
			FAILS(poll(&f, 1, -1), EINTR);
		} else if (round == 1) {
			FD_ZERO(&set);
			FD_SET(b.fd, &set);
			FAILS(select(b.fd + 1, &set, NULL, NULL, NULL), EINTR);
			CHECK(FD_ISSET(b.fd, &set));
		} else {
			ep = epoll_create1(0);
			CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, b.fd, &e) == 0);
			FAILS(epoll_wait(ep, &e, 1, -1), EINTR);
		}
		waited = 1;
		CHECK(handled);
		pthread_join(t, NULL);
	}
}

/* A blocked signal ends a wait that lets it through, and only that. */
static void
masks(void)
{
	struct pollfd f = { .events = POLLIN };
	struct timespec ts = { 0, SOON_MS * 1000000L };
	struct epoll_event e = { .events = EPOLLIN };
	sigset_t block, none, now;
	fd_set set;
	int ep = epoll_create1(0);

	up();
	catch(SIGUSR1);
	sigemptyset(&none);
	sigemptyset(&block);
	sigaddset(&block, SIGUSR1);
	sigprocmask(SIG_BLOCK, &block, NULL);
	f.fd = b.fd;
	raise(SIGUSR1);
	SAME(ppoll(&f, 1, &ts, &block), 0);
	SAME(poll(&f, 1, SOON_MS), 0);
	SAME(handled, 0);
	FAILS(ppoll(&f, 1, NULL, &none), EINTR);
	SAME(handled, 1);
	handled = 0;
	raise(SIGUSR1);
	FD_ZERO(&set);
	FD_SET(b.fd, &set);
	FAILS(pselect(b.fd + 1, &set, NULL, NULL, NULL, &none), EINTR);
	SAME(handled, 1);
	handled = 0;
	raise(SIGUSR1);
	CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, b.fd, &e) == 0);
	SAME(epoll_pwait(ep, &e, 1, SOON_MS, &block), 0);
	SAME(handled, 0);
	FAILS(epoll_pwait(ep, &e, 1, -1, &none), EINTR);
	SAME(handled, 1);
	/* The mask is what it was. */
	sigprocmask(SIG_BLOCK, NULL, &now);
	CHECK(sigismember(&now, SIGUSR1) && !sigismember(&now, SIGUSR2));
}

static void
selects(void)
{
	fd_set r, w, e;
	struct timeval tv = { 20, 0 };
	struct timespec ts = { 20, 0 };
	int p[2];

	up();
	CHECK(pipe(p) == 0);
	FD_ZERO(&r);
	FD_ZERO(&w);
	FD_ZERO(&e);
	FD_SET(b.fd, &r);
	FD_SET(p[0], &r);
	FD_SET(a.fd, &w);
	FD_SET(a.fd, &e);
	SAME(select(64, &r, &w, &e, &tv), 1);
	CHECK(FD_ISSET(a.fd, &w) && !FD_ISSET(b.fd, &r));
	CHECK(!FD_ISSET(p[0], &r) && !FD_ISSET(a.fd, &e));
	CHECK(tv.tv_sec == 19 || tv.tv_sec == 20);
	queue(&a, 's', 60);
	CHECK(write(p[1], "x", 1) == 1);
	FD_SET(b.fd, &r);
	FD_SET(p[0], &r);
	FD_SET(a.fd, &r);
	/* Whether b is looked at before or after a has sent is not said. */
	int n = pselect(64, &r, &w, NULL, &ts, NULL);
	SAME(n, FD_ISSET(b.fd, &r) ? 3 : 2);
	CHECK(FD_ISSET(p[0], &r) && FD_ISSET(a.fd, &w) && !FD_ISSET(a.fd, &r));
	SAME(recv_one(&b), 's');
	/* A number that is not open. */
	FD_SET(63, &r);
	FAILS(select(64, &r, NULL, NULL, NULL), EBADF);
}

/* A set longer than fd_set: the kernel takes it. */
static void
high_select(void)
{
	struct rlimit lim;
	unsigned long words[64];
	int high, p[2];

	up();
	CHECK(getrlimit(RLIMIT_NOFILE, &lim) == 0);
	lim.rlim_cur = lim.rlim_max < 4096 ? lim.rlim_max : 4096;
	CHECK(setrlimit(RLIMIT_NOFILE, &lim) == 0);
	high = fcntl(b.fd, F_DUPFD, 2000);
	if (high < 0)
		return; /* such numbers are not to be had here */
	CHECK(pipe(p) == 0);
	CHECK(dup2(p[0], 1500) == 1500);
	memset(words, 0, sizeof(words));
	words[high / 64] |= 1UL << high % 64;
	words[1500 / 64] |= 1UL << 1500 % 64;
	send_one(&a, 'h');
	SAME(select(high + 1, (fd_set *)words, NULL, NULL, NULL), 1);
	CHECK(words[high / 64] == 1UL << high % 64 && words[1500 / 64] == 0);
	SAME(recv_one(&b), 'h');
	words[1500 / 64] |= 1UL << 1500 % 64;
	CHECK(write(p[1], "x", 1) == 1);
	SAME(select(high + 1, (fd_set *)words, NULL, NULL, NULL), 1);
	CHECK(words[high / 64] == 0 && words[1500 / 64] != 0);
}

static void *
poller(void *arg)
{
	struct pollfd f = { .fd = *(int *)arg, .events = POLLIN };

	CHECK(poll(&f, 1, PATIENCE_MS) == 1);
	return (void *)(long)f.revents;
}

/* Another thread closes what is polled: the poll ends, and soon. */
static void
closed(void)
{
	long long t = now_ms();
	pthread_t th;
	void *revents;

	up();
	pthread_create(&th, NULL, poller, &b.fd);
	pause_ms(50);
	unport(&b);
	pthread_join(th, &revents);
	CHECK((long)revents & (POLLNVAL | POLLERR));
	CHECK(now_ms() - t < 5000);
}

/* Many threads wait on one descriptor: each frame wakes somebody. */
static int got;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *
sharer(void *arg)
{
	struct pollfd f = { .fd = b.fd, .events = POLLIN };

	(void)arg;
	for (;;) {
		CHECK(poll(&f, 1, PATIENCE_MS) == 1);
		pthread_mutex_lock(&lock);
		while (take(&b) >= 0)
			got++;
		if (got >= 300) {
			pthread_mutex_unlock(&lock);
			return NULL;
		}
		CHECK(ioctl(b.fd, NIOCRXSYNC, NULL) == 0);
		pthread_mutex_unlock(&lock);
	}
}

static void
shared(void)
{
	pthread_t t[4];

	up();
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, sharer, NULL);
	for (int i = 0; i < 300; i++) {
		send_one(&a, 'x');
		if (i % 10 == 0)
			pause_ms(3);
	}
	pause_ms(100);
	/* More for those who came too late for the last. */
	for (int i = 0; i < 4; i++)
		while (pthread_tryjoin_np(t[i], NULL) == EBUSY) {
			send_one(&a, 'x');
			pause_ms(5);
		}
	CHECK(got >= 300);
}

/* A wait can be cancelled; the descriptor is as good as before. */
static void *
waits_forever(void *arg)
{
	struct pollfd f = { .fd = b.fd, .events = POLLIN };

	(void)arg;
	poll(&f, 1, -1);
	return NULL;
}

static void
cancelled(void)
{
	long long t;
	pthread_t th;
	void *how;

	up();
	pthread_create(&th, NULL, waits_forever, NULL);
	pause_ms(50);
	CHECK(pthread_cancel(th) == 0);
	CHECK(pthread_join(th, &how) == 0);
	CHECK(how == PTHREAD_CANCELED);
	pthread_create(&th, NULL, later, NULL);
	t = now_ms();
	SAME(recv_one(&b), 'l');
	CHECK(now_ms() - t < 5000);
	pthread_join(th, NULL);
}

/* A handler polls the descriptor that the program is just using. */
static void
poll_in_handler(int sig)
{
	struct pollfd f = { .fd = b.fd, .events = POLLIN | POLLOUT };
	int was = errno;

	(void)sig;
	CHECK(poll(&f, 1, 0) >= 0);
	CHECK(ioctl(b.fd, NIOCTXSYNC, NULL) == 0);
	handled++;
	errno = was;
}

static void
in_handler(void)
{
	struct sigaction sa = { .sa_handler = poll_in_handler };
	struct itimerval every = { { 0, 2000 }, { 0, 2000 } };
	struct pollfd f = { .events = POLLIN | POLLOUT };

	up();
	sigaction(SIGALRM, &sa, NULL);
	f.fd = b.fd;
	CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
	long long end = now_ms() + 30000;
	while (handled < 300 && now_ms() < end) {
		CHECK(poll(&f, 1, 10) >= 0 || errno == EINTR);
		CHECK(ioctl(b.fd, NIOCRXSYNC, NULL) == 0);
	}
	CHECK(handled >= 300);
}

int
main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "level", level }, { "both", both }, { "full", full },
		{ "flush", flush }, { "no_tx_poll", no_tx_poll },
		{ "errors", errors }, { "mixed", mixed }, { "timeout", timeout },
		{ "interrupted", interrupted }, { "masks", masks },
		{ "selects", selects }, { "high_select", high_select },
		
		
		{ "closed", closed },
		{ "shared", shared }, { "cancelled", cancelled },
		{ "in_handler", in_handler }, { NULL, NULL },
	};

	return run_tests(tests, argc, argv);
}
