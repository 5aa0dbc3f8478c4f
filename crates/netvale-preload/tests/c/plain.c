/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A program that has nothing to do with netmap: threads that serve each other
 * over sockets and pipes, fork, and close. What it prints is the same every
 * time. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int listener, served;
static struct sockaddr_in addr;

static void
die(const char *what)
{
	perror(what);
	_exit(1);
}

/* Answers each byte with the next one. */
static void *
server(void *arg)
{
	int ep = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event e = { .events = EPOLLIN, .data.fd = listener }, out[16];

	(void)arg;
	if (epoll_ctl(ep, EPOLL_CTL_ADD, listener, &e))
		die("epoll_ctl");
	for (;;) {
		int n = epoll_wait(ep, out, 16, -1);

		for (int i = 0; i < n; i++) {
			unsigned char c;
			int fd = out[i].data.fd;

			if (fd == listener) {
				fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
				if (fd < 0)
					continue;
				e.data.fd = fd;
				if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e))
					die("epoll_ctl");
			} else if (read(fd, &c, 1) == 1) {
				c++;
				if (c == 0) {
					close(ep);
					return NULL;
				}
				/* Before the answer: it is looked at after the last. */
				__atomic_add_fetch(&served, 1, __ATOMIC_SEQ_CST);
				if (write(fd, &c, 1) != 1)
					die("write");
			} else {
				/* A forked child may have it open, too. */
				epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL);
				close(fd);
			}
		}
	}
}

static void *
client(void *arg)
{
	long sum = 0;

	for (int round = 0; round < 60; round++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		unsigned char c = round;
		struct pollfd f = { .fd = fd, .events = POLLIN };
		fd_set set;

		if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
			die("connect");
		for (int i = 0; i < 5; i++) {
			int d = dup(fd);

			if (write(d, &c, 1) != 1)
				die("write");
			if (i % 2) {
				if (poll(&f, 1, -1) != 1 || f.revents != POLLIN)
					die("poll");
			} else {
				FD_ZERO(&set);
				FD_SET(fd, &set);
				if (select(fd + 1, &set, NULL, NULL, NULL) != 1)
					die("select");
			}
			close(d);
			if (read(fd, &c, 1) != 1)
				die("read");
			sum += c;
		}
		if (round % 10 == (long)arg % 10) {
			int p[2], status;
			pid_t pid;

			if (pipe2(p, O_CLOEXEC))
				die("pipe2");
			pid = fork();
			if (pid == 0) {
				dup2(p[1], 7);
				close_range(8, ~0U, 0);
				if (write(7, "fork", 4) != 4)
					_exit(3);
				_exit(5);
			}
			char text[8];
			close(p[1]);
			if (read(p[0], text, 8) != 4 || memcmp(text, "fork", 4))
				die("child");
			close(p[0]);
			if (waitpid(pid, &status, 0) != pid || WEXITSTATUS(status) != 5)
				die("wait");
		}
		close(fd);
	}
	return (void *)sum;
}

/* What calls leave in errno, and what they return. */
static void
numbers(void)
{
	struct pollfd f = { .fd = 77, .events = POLLIN };
	struct stat st;
	struct epoll_event e;
	fd_set set;
	char c;
	void *volatile wild = (void *)8;

#define SHOW(call) do { \
	errno = 0; \
	long r = (long)(call); \
	int was = errno; \
	printf("%s = %d, %d\n", #call, r < 0 ? -1 : r > 0, was); \
} while (0)
	SHOW(close(77));
	SHOW(close(-1));
	SHOW(dup(77));
	SHOW(dup2(77, 78));
	SHOW(dup2(1, -1));
	SHOW(dup3(1, 1, 0));
	SHOW(fcntl(77, F_GETFD));
	SHOW(fcntl(1, 12345));
	SHOW(read(77, &c, 1));
	SHOW(write(77, &c, 1));
	SHOW(ioctl(77, 0));
	SHOW(poll(&f, 1, 0));
	SHOW(poll(&f, 1, -1));
	printf("%x\n", f.revents);
	SHOW(poll(wild, 1, 0));
	SHOW(poll(NULL, 0, 1));
	SHOW(epoll_wait(77, &e, 1, 0));
	SHOW(epoll_wait(1, &e, 1, 0));
	SHOW(epoll_ctl(77, EPOLL_CTL_ADD, 1, &e));
	FD_ZERO(&set);
	FD_SET(77, &set);
	SHOW(select(78, &set, NULL, NULL, NULL));
	SHOW(select(-1, NULL, NULL, NULL, NULL));
	SHOW(select(5, wild, NULL, NULL, NULL));
	SHOW(open("/nowhere/at/all", O_RDONLY));
	SHOW(open(wild, O_RDONLY));
	SHOW(openat(77, "x", O_RDONLY));
	SHOW(access("/dev/null", R_OK));
	SHOW(access("/dev/null", X_OK));
	SHOW(access(wild, R_OK));
	SHOW(stat("/dev/nul", &st));
	SHOW(stat("/dev/null", wild));
	SHOW(lstat("/", &st));
	SHOW(fopen("/dev/null", "r") != NULL);
	SHOW(fopen("/dev/nul", "r") != NULL);
	SHOW(mmap(NULL, 0, PROT_READ, MAP_PRIVATE, 1, 0) == MAP_FAILED);
	SHOW(mmap(NULL, 1, PROT_READ, MAP_PRIVATE, 77, 0) == MAP_FAILED);
	SHOW(munmap((void *)1, 1));
	SHOW(mremap((void *)1, 1, 1, 0) == MAP_FAILED);
	SHOW(close_range(90, 80, 0));
	SHOW(close_range(90, 95, 99));
	SHOW(recvmsg(77, NULL, 0));
}

int
main(void)
{
	socklen_t len = sizeof(addr);
	pthread_t s, c[6];
	void *sum;

	alarm(60);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	addr.sin_family = AF_INET;
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(listener, (struct sockaddr *)&addr, len) || listen(listener, 64)
		|| getsockname(listener, (struct sockaddr *)&addr, &len))
		die("listen");
	pthread_create(&s, NULL, server, NULL);
	for (long i = 0; i < 6; i++)
		pthread_create(&c[i], NULL, client, (void *)i);
	for (long i = 0; i < 6; i++) {
		pthread_join(c[i], &sum);
		printf("client %ld: %ld\n", i, (long)sum);
	}
	printf("served %d\n", served);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	unsigned char last = 255;
	if (connect(fd, (struct sockaddr *)&addr, len) || write(fd, &last, 1) != 1)
		die("last");
	pthread_join(s, NULL);
	close(fd);
	close(listener);
	numbers();
	return 0;
}
