/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A parent and a child of one program talk through the two ends of a pipe.
 * Nothing is copied and nothing is lost: a full pipe makes the sender wait.
 *
 *	cc pipes.c -o pipes $(pkg-config --cflags --libs netvale)
 *	./pipes
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <libnetmap.h>

#define MESSAGES 10000U

/* Waits for the descriptor; 0 if that went wrong. */
static int
wait_for(struct nmport_d *d, short events)
{
	struct pollfd fd = { .fd = d->fd, .events = events };

	return poll(&fd, 1, 5000) > 0 && !(fd.revents & POLLERR);
}

/* Receives all messages and checks their numbers. */
static int
child(const char *name)
{
	struct nmport_d *d = nmport_open(name);
	struct netmap_ring *ring;
	uint32_t next = 0, number;

	if (d == NULL)
		return 1;
	ring = NETMAP_RXRING(d->nifp, d->first_rx_ring);
	while (next < MESSAGES && wait_for(d, POLLIN)) {
		while (!nm_ring_empty(ring)) {
			struct netmap_slot *slot = &ring->slot[ring->head];

			memcpy(&number, NETMAP_BUF(ring, slot->buf_idx),
				sizeof(number));
			if (slot->len != sizeof(number) || number != next) {
				fprintf(stderr, "%u instead of %u\n", number, next);
				return 1;
			}
			next++;
			ring->head = ring->cur = nm_ring_next(ring, ring->head);
		}
	}
	ioctl(d->fd, NIOCRXSYNC, NULL);	/* the last slots go back */
	nmport_close(d);
	return next != MESSAGES;
}

/* Sends all messages. */
static int
parent(const char *name)
{
	struct nmport_d *d = nmport_open(name);
	uint32_t n;

	if (d == NULL)
		return 1;
	for (n = 0; n < MESSAGES; ) {
		if (nmport_inject(d, &n, sizeof(n)) == sizeof(n)) {
			n++;
		} else if (!wait_for(d, POLLOUT)) {
			fprintf(stderr, "stuck at %u\n", n);
			return 1;
		}
	}
	/* Wait until the child has got everything. */
	while (ioctl(d->fd, NIOCTXSYNC, NULL) == 0 &&
	    nm_tx_pending(NETMAP_TXRING(d->nifp, d->first_tx_ring)))
		poll(NULL, 0, 1);
	nmport_close(d);
	return 0;
}

int
main(int argc, char **argv)
{
	const char *base = argc > 1 ? argv[1] : "vale0:pipes";
	char master[80], slave[80];
	int status = 1, failed;
	pid_t pid;

	snprintf(master, sizeof(master), "%s{1", base);
	snprintf(slave, sizeof(slave), "%s}1", base);
	pid = fork();
	if (pid < 0) {
		perror("fork");
		return 1;
	}
	if (pid == 0)
		_exit(child(slave));
	failed = parent(master);
	if (failed)
		kill(pid, SIGTERM);
	waitpid(pid, &status, 0);
	if (failed || status != 0)
		return 1;
	printf("%u messages through %s\n", MESSAGES, master);
	return 0;
}
