/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Moves frames from one port to another, until there were enough or none came
 * for 5 seconds. If both ports are in one region, buffers are exchanged and
 * nothing is copied.
 *
 *	cc forward.c -o forward $(pkg-config --cflags --libs netvale)
 *	./forward vale0:a vale1:b
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <libnetmap.h>

/* Moves slots; how many frames ended in them. */
static unsigned long
move_slots(struct netmap_ring *rx, struct netmap_ring *tx, int zero_copy)
{
	unsigned long frames = 0;
	uint32_t from = rx->head, to = tx->head;

	while (from != rx->tail && to != tx->tail) {
		struct netmap_slot *in = &rx->slot[from];
		struct netmap_slot *out = &tx->slot[to];

		if (zero_copy) {
			uint32_t idx = out->buf_idx;

			out->buf_idx = in->buf_idx;
			in->buf_idx = idx;
			/* Tells the system that the buffer is another one. */
			in->flags |= NS_BUF_CHANGED;
			out->flags = NS_BUF_CHANGED;
		} else {
			nm_pkt_copy(NETMAP_BUF(rx, in->buf_idx),
				NETMAP_BUF(tx, out->buf_idx), in->len);
			out->flags = 0;
		}
		out->len = in->len;
		out->flags |= in->flags & NS_MOREFRAG;
		frames += !(in->flags & NS_MOREFRAG);
		from = nm_ring_next(rx, from);
		to = nm_ring_next(tx, to);
	}
	rx->head = rx->cur = from;
	tx->head = tx->cur = to;
	return frames;
}

int
main(int argc, char **argv)
{
	unsigned long count = (unsigned long)-1, frames = 0;
	struct nmport_d *a, *b;
	int zero_copy;

	if (argc < 3) {
		fprintf(stderr, "usage: %s FROM TO [COUNT]\n", argv[0]);
		return 2;
	}
	if (argc > 3)
		count = strtoul(argv[3], NULL, 10);
	a = nmport_open(argv[1]);
	b = a != NULL ? nmport_open(argv[2]) : NULL;
	if (b == NULL) {
		nmport_close(a);
		return 1;	/* the library has said why */
	}
	zero_copy = a->mem == b->mem;
	printf("ready, %s\n", zero_copy ? "zero-copy" : "copying");
	fflush(stdout);

	while (frames < count) {
		struct pollfd fds[2] = {
			{ .fd = a->fd, .events = POLLIN },
			{ .fd = b->fd, .events = 0 },
		};
		unsigned int in = a->first_rx_ring, out = b->first_tx_ring;
		struct netmap_ring *tx = NETMAP_TXRING(b->nifp, out);

		/* Wait for room first, or frames would make poll return at once. */
		if (nm_ring_empty(tx)) {
			fds[0].events = 0;
			fds[1].events = POLLOUT;
		}
		if (poll(fds, 2, 5000) <= 0 ||
		    ((fds[0].revents | fds[1].revents) & POLLERR))
			break;
		for (; in <= a->last_rx_ring && out <= b->last_tx_ring; in++) {
			frames += move_slots(NETMAP_RXRING(a->nifp, in),
				NETMAP_TXRING(b->nifp, out), zero_copy);
			out += out < b->last_tx_ring;
		}
		ioctl(b->fd, NIOCTXSYNC, NULL);
	}
	/* Nothing is lost that the receiver has not fetched yet. */
	while (ioctl(b->fd, NIOCTXSYNC, NULL) == 0 &&
	    nm_tx_pending(NETMAP_TXRING(b->nifp, b->first_tx_ring)))
		poll(NULL, 0, 1);
	ioctl(a->fd, NIOCRXSYNC, NULL);
	printf("forwarded %lu frames\n", frames);
	nmport_close(b);
	nmport_close(a);
	return 0;
}
