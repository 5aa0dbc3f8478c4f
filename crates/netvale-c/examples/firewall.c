/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Stands between a network interface and the host's own stack, drops what its
 * rules name and lets everything else pass, both ways. Frames that may pass
 * are marked with NS_FORWARD: they go on when their slots are released, and
 * are neither copied nor put into another ring here.
 *
 *	cc firewall.c -o firewall $(pkg-config --cflags --libs netvale)
 *	sudo ./firewall eth0 tcp:23 udp:53@192.0.2.7 icmp @203.0.113.9
 *
 * A rule is PROTOCOL[:PORT][@ADDRESS]; protocol may be left out, port and
 * address are those of either end. Only IPv4 is looked at. The host has its
 * interface back as soon as the program ends, however that happens.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <libnetmap.h>

#define MAX_RULES	64

/* 0 stands for any. */
struct rule {
	uint8_t proto;
	uint16_t port;		/* both in network order */
	uint32_t addr;
};

static struct rule rules[MAX_RULES];
static int num_rules;
static volatile sig_atomic_t stop;

static void
on_signal(int sig)
{
	(void)sig;
	stop = 1;
}

static int
parse(char *text, struct rule *r)
{
	char *addr = strchr(text, '@'), *port;
	long n;

	memset(r, 0, sizeof(*r));
	if (addr != NULL) {
		*addr++ = '\0';
		if (inet_pton(AF_INET, addr, &r->addr) != 1)
			return -1;
	}
	port = strchr(text, ':');
	if (port != NULL) {
		*port++ = '\0';
		n = strtol(port, &port, 10);
		if (*port != '\0' || n < 1 || n > 65535)
			return -1;
		r->port = htons((uint16_t)n);
	}
	if (strcmp(text, "icmp") == 0 && r->port == 0)
		r->proto = 1;
	else if (strcmp(text, "tcp") == 0)
		r->proto = 6;
	else if (strcmp(text, "udp") == 0)
		r->proto = 17;
	else if (*text != '\0' || addr == NULL)
		return -1;
	return 0;
}

/* Whether a rule names the frame. */
static int
is_blocked(const uint8_t *frame, size_t len)
{
	size_t l3 = 14, l4;
	uint32_t src, dst;
	uint16_t type, frag, ports[2] = { 0, 0 };
	int i;

	if (len < l3)
		return 0;
	memcpy(&type, frame + 12, 2);
	if (type == htons(0x8100) && len >= 18) {
		memcpy(&type, frame + 16, 2);
		l3 = 18;
	}
	if (type != htons(0x0800) || len < l3 + 20)
		return 0;
	memcpy(&src, frame + l3 + 12, 4);
	memcpy(&dst, frame + l3 + 16, 4);
	memcpy(&frag, frame + l3 + 6, 2);
	l4 = l3 + 4 * (frame[l3] & 15u);
	/* Later fragments have no ports, and are no use without the first. */
	if ((frag & htons(0x1fff)) == 0 && len >= l4 + 4)
		memcpy(ports, frame + l4, 4);
	for (i = 0; i < num_rules; i++) {
		const struct rule *r = &rules[i];

		if (r->proto != 0 && r->proto != frame[l3 + 9])
			continue;
		if (r->port != 0 && r->port != ports[0] && r->port != ports[1])
			continue;
		if (r->addr != 0 && r->addr != src && r->addr != dst)
			continue;
		return 1;
	}
	return 0;
}

/* Looks at all frames of a ring, and lets them go. */
static void
filter(struct netmap_ring *ring, unsigned long counts[2])
{
	while (!nm_ring_empty(ring)) {
		struct netmap_slot *slot = &ring->slot[ring->head];
		const uint8_t *frame = (const uint8_t *)
			NETMAP_BUF(ring, slot->buf_idx);
		int more = 0, blocked = is_blocked(frame, slot->len);

		/* A frame of several slots is passed on as its first says. */
		if (!blocked)
			slot->flags |= NS_FORWARD;
		do {
			more = ring->slot[ring->head].flags & NS_MOREFRAG;
			ring->head = nm_ring_next(ring, ring->head);
		} while (more && !nm_ring_empty(ring));
		ring->cur = ring->head;
		counts[blocked]++;
	}
}

int
main(int argc, char **argv)
{
	unsigned long counts[2][2] = { { 0, 0 }, { 0, 0 } };
	struct nmport_d *port;
	struct pollfd pfd;
	char name[64];
	int i;

	if (argc < 2) {
		fprintf(stderr, "usage: %s INTERFACE [RULE]...\n", argv[0]);
		return 2;
	}
	for (i = 2; i < argc && num_rules < MAX_RULES; i++) {
		if (parse(argv[i], &rules[num_rules++]) != 0) {
			fprintf(stderr, "%s: no rule\n", argv[i]);
			return 2;
		}
	}
	/* All rings: the interface's and the host's. */
	snprintf(name, sizeof(name), "netmap:%s*", argv[1]);
	port = nmport_open(name);
	if (port == NULL)
		return 1;	/* the library has said why */
	for (i = port->first_rx_ring; i <= port->last_rx_ring; i++)
		NETMAP_RXRING(port->nifp, i)->flags |= NR_FORWARD;
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	printf("ready\n");
	fflush(stdout);

	pfd.fd = port->fd;
	pfd.events = POLLIN;
	while (!stop) {
		/* Also passes on what was marked in the last round. */
		if (poll(&pfd, 1, 1000) > 0 && (pfd.revents & POLLERR))
			break;
		for (i = port->first_rx_ring; i <= port->last_rx_ring; i++) {
			int host = i >= (int)port->nifp->ni_rx_rings;

			filter(NETMAP_RXRING(port->nifp, i), counts[host]);
		}
	}
	printf("in: passed %lu, dropped %lu\n", counts[0][0], counts[0][1]);
	printf("out: passed %lu, dropped %lu\n", counts[1][0], counts[1][1]);
	nmport_close(port);
	return 0;
}
