/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Sends frames through a port, as many at once as fit.
 *
 *	cc send.c -o send $(pkg-config --cflags --libs netvale)
 *	./send vale0:a 1000000
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <libnetmap.h>

#define LEN 60

/* A broadcast frame of an experimental type, so every station gets it. */
static void
make_frame(char *frame)
{
	memset(frame, 0, LEN);
	memset(frame, 0xff, 6);
	memcpy(frame + 6, "\x02\0\0\0\0\1", 6);
	memcpy(frame + 12, "\x88\xb5", 2);
}

/* Fills free slots of one ring with up to n frames; how many it were. */
static unsigned long
fill(struct netmap_ring *ring, const char *frame, unsigned long n)
{
	unsigned long sent = 0;
	uint32_t head = ring->head;

	for (; sent < n && head != ring->tail; sent++) {
		struct netmap_slot *slot = &ring->slot[head];

		memcpy(NETMAP_BUF(ring, slot->buf_idx), frame, LEN);
		slot->len = LEN;
		slot->flags = 0;
		head = nm_ring_next(ring, head);
	}
	ring->head = ring->cur = head;
	return sent;
}

int
main(int argc, char **argv)
{
	unsigned long count, sent = 0;
	struct nmport_d *d;
	char frame[LEN];
	unsigned int r;

	if (argc < 2) {
		fprintf(stderr, "usage: %s PORT [COUNT]\n", argv[0]);
		return 2;
	}
	count = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
	make_frame(frame);

	d = nmport_open(argv[1]);
	if (d == NULL)
		return 1;	/* the library has said why */

	while (sent < count) {
		struct pollfd fd = { .fd = d->fd, .events = POLLOUT };

		/* Sends what is in the rings, and waits for free slots. */
		if (poll(&fd, 1, 5000) <= 0 || (fd.revents & POLLERR)) {
			fprintf(stderr, "no room to send after %lu frames\n", sent);
			nmport_close(d);
			return 1;
		}
		for (r = d->first_tx_ring; r <= d->last_tx_ring; r++)
			sent += fill(NETMAP_TXRING(d->nifp, r), frame,
				count - sent);
	}
	/* The last frames, and those that receivers still hold up. */
	for (r = d->first_tx_ring; r <= d->last_tx_ring; r++)
		while (ioctl(d->fd, NIOCTXSYNC, NULL) == 0 &&
		    nm_tx_pending(NETMAP_TXRING(d->nifp, r)))
			poll(NULL, 0, 1);
	printf("sent %lu frames\n", sent);
	nmport_close(d);
	return 0;
}
