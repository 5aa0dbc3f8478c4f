/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What a descriptor lives through: copies, forks, other programs, closing. */
#include "t.h"
#include <spawn.h>

extern char **environ;

static struct port a, b;

static void
up(void)
{
	a = port("vale0:a");
	b = port("vale0:b");
}

/* Whether the port is registered, asked by another registration. */
static int
is_there(const char *name)
{
	struct nmreq_vale_list l = { 0 };
	struct port p;
	int r;

	new_port(&p);
	r = request(p.fd, NETMAP_REQ_VALE_LIST, name, &l, NULL);
	CHECK(r == 0 || errno == ENOENT);
	close(p.fd);
	return r == 0 && l.nr_port_idx != 255;
}

/* The server learns of an end a moment later. */
static void
gone(const char *name)
{
	for (int i = 0; is_there(name); i++) {
		CHECK(i < 2000);
		pause_ms(5);
	}
}

static void
copies(void)
{
	int fd[4], back;

	up();
	fd[0] = dup(a.fd);
	fd[1] = fcntl(a.fd, F_DUPFD, 50);
	fd[2] = fcntl(a.fd, F_DUPFD_CLOEXEC, 60);
	fd[3] = open("/dev/null", O_RDONLY);
	CHECK(fd[0] >= 0 && fd[1] >= 50 && fd[2] >= 60);
	SAME(dup2(a.fd, fd[3]), fd[3]);
	SAME(dup2(a.fd, a.fd), a.fd);
	FAILS(dup3(a.fd, a.fd, 0), EINVAL);
	FAILS(dup2(999, a.fd), EBADF);
	CHECK(fcntl(fd[2], F_GETFD) == FD_CLOEXEC && fcntl(fd[1], F_GETFD) == 0);
	back = a.fd;
	for (int i = 0; i < 4; i++) {
		a.fd = fd[i];
		send_one(&a, i + 1);
		SAME(recv_one(&b), i + 1);
	}
	/* The first one goes, and the number is somebody else's. */
	CHECK(close(back) == 0);
	FAILS(ioctl(back, NIOCTXSYNC, NULL), EBADF);
	SAME(open("/dev/zero", O_RDONLY), back);
	FAILS(ioctl(back, NIOCTXSYNC, NULL), ENOTTY);
	char c = 1;
	SAME(read(back, &c, 1), 1);
	SAME(c, 0);
	send_one(&a, 9);
	SAME(recv_one(&b), 9);
	/* A registration replaced by something else ends. */
	CHECK(munmap(a.mem, a.reg.nr_memsize) == 0);
	for (int i = 0; i < 3; i++)
		SAME(dup2(back, fd[i]), fd[i]);
	CHECK(is_there("vale0:a"));
	SAME(dup3(back, fd[3], O_CLOEXEC), fd[3]);
	gone("vale0:a");
	/* Reading and writing do not work on it. */
	FAILS(read(b.fd, &c, 1), EINVAL);
	FAILS(write(b.fd, &c, 1), EINVAL);
	/* A flag that means nothing here is harmless. */
	int on = 1;
	CHECK(ioctl(b.fd, FIONBIO, &on) == 0);
	CHECK(fcntl(b.fd, F_GETFL) & O_NONBLOCK);
	nothing(&b);
	FAILS(ioctl(b.fd, 0x5413, &on), EOPNOTSUPP);
}

/* Parent and child send and receive through the same registration. */
static void
forked(void)
{
	pid_t child;

	up();
	child = fork();
	if (child == 0) {
		CHECK(ioctl(a.fd, NIOCTXSYNC, NULL) == 0);
		for (int i = 0; i < 50; i++)
			send_one(&a, 'c');
		_exit(0);
	}
	reap(child);
	for (int i = 0; i < 50; i++)
		SAME(recv_one(&b), 'c');
	send_one(&a, 'p');
	SAME(recv_one(&b), 'p');
	/* The child's child, and it outlives us all. */
	child = fork();
	if (child == 0) {
		CHECK(close(a.fd) == 0);
		child = fork();
		if (child == 0) {
			SAME(recv_one(&b), 'g');
			_exit(0);
		}
		reap(child);
		_exit(0);
	}
	pause_ms(50);
	send_one(&a, 'g');
	reap(child);
	/* Non-blocking by the program's will, bound by the child. */
	struct port p;
	new_port(&p);
	CHECK(fcntl(p.fd, F_SETFL, O_NONBLOCK) == 0);
	child = fork();
	if (child == 0) {
		SAME(try_reg(&p, "vale0:late", NULL), 0);
		_exit(0);
	}
	reap(child);
	SAME(try_reg(&p, "vale0:again", NULL), EBUSY);
	CHECK(ioctl(p.fd, NIOCTXSYNC, NULL) == 0);
}

static volatile int stop;

static void *
busy(void *arg)
{
	struct pollfd f = { .fd = *(int *)arg, .events = POLLIN | POLLOUT };
	struct epoll_event e = { .events = EPOLLIN | EPOLLOUT };
	int ep = epoll_create1(EPOLL_CLOEXEC);

	CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, f.fd, &e) == 0);
	while (!stop) {
		CHECK(poll(&f, 1, 1) >= 0);
		CHECK(epoll_wait(ep, &e, 1, 1) >= 0);
		int fd = open("/dev/netmap", O_RDWR | O_CLOEXEC);
		CHECK(fd >= 0);
		int d = dup(fd);
		CHECK(d >= 0 && close(d) == 0 && close(fd) == 0);
	}
	return NULL;
}

/* Forks while other threads are everywhere inside: no child may hang. */
static void
fork_threads(void)
{
	pthread_t t[3];

	up();
	for (int i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, busy, i ? &a.fd : &b.fd);
	for (int i = 0; i < 60; i++) {
		pid_t child = fork();
		CHECK(child >= 0);
		if (child == 0) {
			alarm(30);
			struct pollfd f = { .fd = b.fd, .events = POLLIN | POLLOUT };
			CHECK(poll(&f, 1, 1000) == 1);
			struct port p;
			new_port(&p);
			CHECK(close(p.fd) == 0);
			_exit(0);
		}
		reap(child);
	}
	stop = 1;
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	send_one(&a, 'f');
	SAME(recv_one(&b), 'f');
}

/* What runs in another program: the descriptor is all it knows. */
static void
heir(int fd)
{
	struct nmreq_register reg;
	struct pollfd f = { .fd = fd, .events = POLLOUT };

	memset(&reg, 0, sizeof(reg));
	reg.nr_mode = NR_REG_ALL_NIC;
	FAILS(request(fd, NETMAP_REQ_REGISTER, "vale0:x", &reg, NULL), EBUSY);
	SAME(poll(&f, 1, 1000), 1);
	SAME(f.revents, POLLOUT);
	CHECK(ioctl(fd, NIOCTXSYNC, NULL) == 0);
}

static char *
self(void)
{
	static char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);

	CHECK(n > 0);
	return path;
}

static void
execs(void)
{
	char number[16], *args[] = { self(), "heir", number, NULL };
	posix_spawn_file_actions_t act;
	pid_t child;

	up();
	snprintf(number, sizeof(number), "%d", a.fd);
	for (int i = 0; i < 3; i++) {
		queue(&a, 'x', 60);
		switch (i) {
		case 0:
			child = fork();
			if (child == 0)
				execv(args[0], args);
			break;
		case 1:
			child = vfork();
			if (child == 0) {
				close(b.fd);
				dup2(a.fd, b.fd);
				execv(args[0], args);
				_exit(9);
			}
			break;
		default:
			snprintf(number, sizeof(number), "%d", 700);
			posix_spawn_file_actions_init(&act);
			posix_spawn_file_actions_adddup2(&act, a.fd, 700);
			posix_spawn_file_actions_addclose(&act, a.fd);
			CHECK(posix_spawn(&child, args[0], &act, NULL, args, environ) == 0);
		}
		reap(child);
		/* Sent by the heir; and what it closed is open here. */
		SAME(recv_one(&b), 'x');
	}
	send_one(&a, 'y');
	SAME(recv_one(&b), 'y');
}

static void
send_fd(int s, int fd)
{
	union { struct cmsghdr h; char space[CMSG_SPACE(sizeof(int))]; } c;
	struct iovec v = { "x", 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1,
		.msg_control = &c, .msg_controllen = sizeof(c) };

	memset(&c, 0, sizeof(c));
	c.h.cmsg_level = SOL_SOCKET;
	c.h.cmsg_type = SCM_RIGHTS;
	c.h.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&c.h), &fd, sizeof(int));
	CHECK(sendmsg(s, &m, 0) == 1);
}

static int
recv_fd(int s)
{
	/* Not aligned, as careless programs have it. */
	static _Alignas(16) char raw[CMSG_SPACE(sizeof(int)) + 1];
	char x;
	struct iovec v = { &x, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1,
		.msg_control = raw + 1, .msg_controllen = sizeof(raw) - 1 };
	int fd;

	CHECK(recvmsg(s, &m, 0) == 1);
	memcpy(&fd, raw + 1 + CMSG_LEN(0), sizeof(int));
	return fd;
}

/* Through a socket to a process that has never opened anything. */
static void
passed(void)
{
	struct port p;
	int s[2];
	pid_t child;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
	child = fork();
	if (child == 0) {
		memset(&p, 0, sizeof(p));
		p.fd = recv_fd(s[1]);
		CHECK(read(s[1], &p.reg, sizeof(p.reg)) == sizeof(p.reg));
		map(&p);
		SAME(recv_one(&p), 'q');
		send_one(&p, 'r');
		struct pollfd f = { .fd = p.fd, .events = POLLIN };
		SAME(poll(&f, 1, 0), 0);
		unport(&p);
		_exit(0);
	}
	up();
	p = port("vale0:p");
	send_fd(s[0], p.fd);
	CHECK(write(s[0], &p.reg, sizeof(p.reg)) == sizeof(p.reg));
	unport(&p);
	pause_ms(50);
	CHECK(is_there("vale0:p"));
	send_one(&a, 'q');
	/* b had the broadcast as well. */
	SAME(recv_one(&b), 'q');
	SAME(recv_one(&b), 'r');
	reap(child);
	gone("vale0:p");
}

/* A mapping keeps the port, whatever happens to the descriptor. */
static void
mapping(void)
{
	size_t page = 4096, len;

	up();
	len = b.reg.nr_memsize;
	CHECK(close(b.fd) == 0);
	CHECK(is_there("vale0:b"));
	send_one(&a, 'm');
	/* In pieces, the last of which decides. */
	CHECK(munmap(b.mem + page, len - 2 * page) == 0);
	CHECK(is_there("vale0:b"));
	CHECK(munmap(b.mem, page) == 0);
	CHECK(is_there("vale0:b"));
	char *moved = mremap(b.mem + len - page, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, b.mem);
	CHECK(moved == b.mem);
	CHECK(is_there("vale0:b"));
	CHECK(mmap(b.mem, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == b.mem);
	gone("vale0:b");
	/* Ranges that do not exist. */
	FAILS((long)mmap(NULL, a.reg.nr_memsize + page, PROT_READ, MAP_SHARED, a.fd, 0), EINVAL);
	FAILS((long)mmap(NULL, page, PROT_READ, MAP_SHARED, a.fd, a.reg.nr_memsize), EINVAL);
	char *part = mmap(NULL, page, PROT_READ, MAP_PRIVATE, a.fd, page);
	CHECK(part != MAP_FAILED && memcmp(part, a.mem + page, page) == 0);
	struct port p;
	new_port(&p);
	FAILS((long)mmap(NULL, page, PROT_READ, MAP_SHARED, p.fd, 0), EINVAL);
}

/* A daemon closes all that there is, and begins anew. */
static void
daemons(void)
{
	up();
	for (int round = 0; round < 3; round++) {
		munmap(a.mem, a.reg.nr_memsize);
		munmap(b.mem, b.reg.nr_memsize);
		if (round == 0)
			for (int i = 3; i < 70000; i++)
				close(i);
		else if (round == 1)
			CHECK(close_range(3, ~0U, 0) == 0);
		else
			closefrom(3);
		gone("vale0:a");
		gone("vale0:b");
		up();
		send_one(&a, round);
		SAME(recv_one(&b), round);
	}
	/* A part of all, and only marks. */
	int lo = a.fd < b.fd ? a.fd : b.fd, hi = a.fd + b.fd - lo;
	CHECK(close_range(lo, hi, CLOSE_RANGE_CLOEXEC) == 0);
	SAME(fcntl(a.fd, F_GETFD), FD_CLOEXEC);
	send_one(&a, 'c');
	SAME(recv_one(&b), 'c');
	munmap(b.mem, b.reg.nr_memsize);
	CHECK(close_range(b.fd, b.fd, 0) == 0);
	gone("vale0:b");
	CHECK(is_there("vale0:a"));
}

static void
many(void)
{
	int fds[200], before;

	up();
	before = open_fds();
	for (int i = 0; i < 9800; i++) {
		int fd = open("/dev/netmap", O_RDWR);
		CHECK(fd >= 0 && close(fd) == 0);
	}
	for (int i = 0; i < 200; i++)
		CHECK((fds[i] = open("/dev/netmap", O_RDWR)) >= 0);
	for (int i = 0; i < 200; i++)
		CHECK(close(fds[i]) == 0);
	for (int i = 0; i < 100; i++) {
		struct port p = port("vale0:c");
		send_one(&p, i);
		SAME(recv_one(&b), i);
		unport(&p);
	}
	SAME(open_fds(), before);
	send_one(&a, 'm');
	SAME(recv_one(&b), 'm');
}

/* Numbers run out: a clear error, and nothing is lost. */
static void
no_numbers(void)
{
	struct rlimit lim = { 48, 48 };
	int fds[64], n = 0, had;
	struct port p;

	up();
	had = open_fds();
	CHECK(setrlimit(RLIMIT_NOFILE, &lim) == 0);
	while (n < 64 && (fds[n] = open("/dev/netmap", O_RDWR)) >= 0)
		n++;
	CHECK(n > 4 && n < 48);
	SAME(errno, EMFILE);
	p.fd = fds[0];
	for (int i = 0; i < 20; i++) {
		memset(&p.reg, 0, sizeof(p.reg));
		SAME(try_reg(&p, "vale0:c", NULL), EMFILE);
	}
	send_one(&a, 'n');
	SAME(recv_one(&b), 'n');
	for (int i = 1; i < n; i++)
		CHECK(close(fds[i]) == 0);
	memset(&p.reg, 0, sizeof(p.reg));
	SAME(try_reg(&p, "vale0:c", NULL), 0);
	map(&p);
	send_one(&p, 'o');
	SAME(recv_one(&b), 'o');
	unport(&p);
	SAME(open_fds(), had);
}

/* Without the C library's knowledge: nothing of this process is touched. */
static void
errors(void)
{
	struct stat st;
	struct port p;

	errno = 77;
	new_port(&p);
	SAME(errno, 77);
	CHECK(close(p.fd) == 0);
	SAME(errno, 77);
	FAILS(close(p.fd), EBADF);
	FAILS(ioctl(p.fd, NIOCRXSYNC, NULL), EBADF);
	FAILS(open((char *)8, O_RDONLY), EFAULT);
	FAILS(access((char *)8, R_OK), EFAULT);
	FAILS(stat((char *)8, &st), EFAULT);
	CHECK(stat("/dev/netmap", &st) == 0 && S_ISCHR(st.st_mode));
	CHECK(access("/dev/netmap", R_OK | W_OK) == 0);
	FAILS(access("/dev/netmap", X_OK), EACCES);
	FAILS(open("/dev/netmap2", O_RDWR), ENOENT);
	p.fd = open("/dev/netmap", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	CHECK(p.fd >= 0 && fcntl(p.fd, F_GETFD) == FD_CLOEXEC);
	CHECK(fcntl(p.fd, F_GETFL) & O_NONBLOCK);
	memset(&p.reg, 0, sizeof(p.reg));
	errno = 77;
	SAME(try_reg(&p, "vale0:n", NULL), 0);
	map(&p);
	CHECK(ioctl(p.fd, NIOCTXSYNC, NULL) == 0);
	struct pollfd f = { .fd = p.fd, .events = POLLIN };
	SAME(poll(&f, 1, 20), 0);
	int d = dup(p.fd);
	CHECK(d >= 0 && close(d) == 0);
	unport(&p);
	SAME(errno, 77);
}

int
main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "copies", copies }, { "forked", forked },
		{ "fork_threads", fork_threads }, { "execs", execs },
		{ "passed", passed }, { "mapping", mapping },
		{ "daemons", daemons }, { "many", many },
		{ "no_numbers", no_numbers }, { "errors", errors },
		{ NULL, NULL },
	};

	if (argc == 3 && strcmp(argv[1], "heir") == 0) {
		heir(atoi(argv[2]));
		return 0;
	}
	return run_tests(tests, argc, argv);
}
