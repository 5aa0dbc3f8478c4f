/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The control ABI, error for error. */
#include "t.h"
#include <dirent.h>
#include <net/netmap_legacy.h>

static struct port a;

/* What REGISTER says of a name, from a fresh descriptor. */
static int
reg_errno(const char *name, uint32_t mode, uint16_t ringid, uint64_t flags,
	uint16_t mem_id, struct nmreq_option *opt)
{
	struct port p;
	int e;

	new_port(&p);
	p.reg.nr_mode = mode;
	p.reg.nr_ringid = ringid;
	p.reg.nr_flags = flags;
	p.reg.nr_mem_id = mem_id;
	e = request(p.fd, NETMAP_REQ_REGISTER, name, &p.reg, opt) ? errno : 0;
	/* After a failure the descriptor is as good as new. */
	if (e) {
		memset(&p.reg, 0, sizeof(p.reg));
		SAME(try_reg(&p, "vale9:try", NULL), 0);
	}
	CHECK(close(p.fd) == 0);
	return e;
}

static void
registers(void)
{
	static const struct {
		const char *name;
		uint32_t mode;
		uint16_t ringid;
		uint64_t flags;
		uint16_t mem_id;
		int error;
	} table[] = {
		{ "vale0:n", NR_REG_ALL_NIC, 0, 0, 0, 0 },
		/* Stray flag bits are ignored. */
		{ "vale0:n", NR_REG_ALL_NIC, 0, 0x1000 | 1ULL << 40, 0, 0 },
		{ "vale0:n", NR_REG_ALL_NIC, 0, 0, 999, EINVAL },
		{ "n", NR_REG_NULL, 0, 0, 0, EINVAL },
		{ "vale0:n", NR_REG_PIPE_MASTER, 1, 0, 0, EINVAL },
		{ "vale0:n", NR_REG_PIPE_SLAVE, 1, 0, 0, EINVAL },
		{ "vale0:n", NR_REG_DEFAULT, 0, 0, 0, EINVAL },
		{ "vale0:n", 99, 0, 0, 0, EINVAL },
		{ "vale0:n", NR_REG_SW, 0, 0, 0, EINVAL },
		{ "vale0:n", NR_REG_NIC_SW, 0, 0, 0, EINVAL },
		{ "vale0:n", NR_REG_ONE_SW, 0, 0, 0, EINVAL },
		{ "vale0:n", NR_REG_ONE_NIC, 0, 0, 0, 0 },
		{ "vale0:n", NR_REG_ONE_NIC, 1, 0, 0, EINVAL },
		{ "nosuchport", NR_REG_ALL_NIC, 0, 0, 0, ENXIO },
		{ "", NR_REG_ALL_NIC, 0, 0, 0, ENXIO },
		{ "vale-bad:n", NR_REG_ALL_NIC, 0, 0, 0, ENOMEM },
		{ "vale0", NR_REG_ALL_NIC, 0, 0, 0, ENOMEM },
		{ "vale0123456789abcdef:n", NR_REG_ALL_NIC, 0, 0, 0, ENOMEM },
		{ "x{", NR_REG_ALL_NIC, 0, 0, 0, EINVAL },
		{ "{1", NR_REG_ALL_NIC, 0, 0, 0, EINVAL },
		{ "x{1", NR_REG_SW, 0, 0, 0, EINVAL },
		{ "x{1", NR_REG_ONE_NIC, 0, 0, 0, 0 },
		{ "vale0:a", NR_REG_ALL_NIC, 0, NR_MONITOR_RX, 0, 0 },
		{ "nosuchport", NR_REG_ALL_NIC, 0, NR_MONITOR_RX, 0, ENXIO },
		{ "vale0:a", NR_REG_ALL_NIC, 0, NR_RX_RINGS_ONLY | NR_TX_RINGS_ONLY, 0, 0 },
		{ "vale0:a", NR_REG_ALL_NIC, 0, NR_EXCLUSIVE, 0, EBUSY },
	};
	struct nmreq_port_hdr hdr = { .nr_hdr_len = 12 };

	a = port("vale0:a");
	SAME(try_reg(&a, "vale0:a", NULL), EBUSY);
	for (unsigned i = 0; i < sizeof(table) / sizeof(*table); i++) {
		int e = reg_errno(table[i].name, table[i].mode, table[i].ringid,
			table[i].flags, table[i].mem_id, NULL);

		if (e != table[i].error) {
			fprintf(stderr, "case %u, %s: errno %d, not %d\n", i,
				table[i].name, e, table[i].error);
			_exit(1);
		}
	}
	/* A header that the program does not know of. */
	CHECK(request(a.fd, NETMAP_REQ_PORT_HDR_SET, "vale0:a", &hdr, NULL) == 0);
	SAME(reg_errno("vale0:a", NR_REG_ALL_NIC, 0, 0, 0, NULL), EIO);
	SAME(reg_errno("vale0:a", NR_REG_ALL_NIC, 0, NR_ACCEPT_VNET_HDR, 0, NULL), 0);
	/* The 65th pipe. */
	struct port p[65];
	for (int i = 0; i < 64; i++) {
		char name[32];

		snprintf(name, sizeof(name), "many{%d", i);
		new_port(&p[i]);
		SAME(try_reg(&p[i], name, NULL), 0);
	}
	SAME(reg_errno("many{64", NR_REG_ALL_NIC, 0, 0, 0, NULL), EINVAL);
	SAME(reg_errno("many}3", NR_REG_ALL_NIC, 0, 0, 0, NULL), 0);
}

static void
requests(void)
{
	struct nmreq_port_info_get info = { 0 };
	struct nmreq_pools_info pools = { 0 };
	struct nmreq_port_hdr hdr = { 0 };
	struct nmreq_vale_list list = { 0 };
	struct nmreq_vale_newif nif = { 0 };
	struct nmreq_vale_attach att = { 0 };
	struct nmreq_vale_detach det = { 0 };
	struct nmreq_vale_polling pol = { 0 };
	struct nmreq_header h;
	int fd;

	a = port("vale0:a");
	fd = open("/dev/netmap", O_RDWR);
#define REQ(type, name, body) request(fd, NETMAP_REQ_##type, name, body, NULL)
	/* The prologue. */
	memset(&h, 0, sizeof(h));
	h.nr_version = NETMAP_MIN_API - 1;
	h.nr_reqtype = NETMAP_REQ_PORT_INFO_GET;
	h.nr_body = (uintptr_t)&info;
	FAILS(ioctl(fd, NIOCCTRL, &h), EINVAL);
	h.nr_version = NETMAP_MAX_API + 1;
	FAILS(ioctl(fd, NIOCCTRL, &h), EINVAL);
	h.nr_version = NETMAP_MAX_API;
	CHECK(ioctl(fd, NIOCCTRL, &h) == 0);
	h.nr_reserved = 1;
	FAILS(ioctl(fd, NIOCCTRL, &h), EINVAL);
	FAILS(ioctl(fd, NIOCCTRL, NULL), EINVAL);
	FAILS(ioctl(fd, NIOCCTRL, (void *)8), EFAULT);
	FAILS(ioctl(fd, 0x12345678, &h), EOPNOTSUPP);
	FAILS(request(fd, 99, "vale0:a", NULL, NULL), EINVAL);
	FAILS(REQ(PORT_INFO_GET, "vale0:a", NULL), EINVAL);
	FAILS(REQ(VALE_DELIF, "v", &info), EINVAL);
	FAILS(REQ(PORT_INFO_GET, "vale0:a", (void *)8), EFAULT);
	/* PORT_INFO_GET */
	CHECK(REQ(PORT_INFO_GET, "vale0:a", &info) == 0);
	SAME(info.nr_tx_slots, 1024);
	SAME(info.nr_rx_rings, 1);
	SAME(info.nr_mem_id, a.reg.nr_mem_id);
	SAME(info.nr_memsize, a.reg.nr_memsize);
	info.nr_mem_id = 0;
	CHECK(REQ(PORT_INFO_GET, "vale5:new", &info) == 0);
	info.nr_mem_id = 999;
	FAILS(REQ(PORT_INFO_GET, "", &info), EINVAL);
	info.nr_mem_id = a.reg.nr_mem_id;
	CHECK(REQ(PORT_INFO_GET, "", &info) == 0);
	SAME(info.nr_memsize, a.reg.nr_memsize);
	info.nr_mem_id = 0;
	FAILS(REQ(PORT_INFO_GET, "nosuchport", &info), ENXIO);
	/* POOLS_INFO_GET */
	FAILS(REQ(POOLS_INFO_GET, "", &pools), ENXIO);
	FAILS(REQ(POOLS_INFO_GET, "nosuchport", &pools), ENXIO);
	CHECK(REQ(POOLS_INFO_GET, "vale0:a", &pools) == 0);
	SAME(pools.nr_memsize, a.reg.nr_memsize);
	SAME(pools.nr_mem_id, a.reg.nr_mem_id);
	SAME(pools.nr_buf_pool_objsize, txr(&a, 0)->nr_buf_size);
	CHECK(pools.nr_if_pool_offset < pools.nr_ring_pool_offset);
	CHECK(pools.nr_ring_pool_offset < pools.nr_buf_pool_offset);
	CHECK(pools.nr_buf_pool_offset + (uint64_t)pools.nr_buf_pool_objtotal *
		pools.nr_buf_pool_objsize
		<= pools.nr_memsize);
	SAME((char *)txr(&a, 0) + txr(&a, 0)->buf_ofs - a.mem, pools.nr_buf_pool_offset);
	/* PORT_HDR */
	hdr.nr_hdr_len = 11;
	FAILS(REQ(PORT_HDR_SET, "vale0:a", &hdr), EINVAL);
	hdr.nr_hdr_len = 10;
	FAILS(REQ(PORT_HDR_SET, "vale0:none", &hdr), ENXIO);
	FAILS(REQ(PORT_HDR_SET, "x", &hdr), ENXIO);
	CHECK(REQ(PORT_HDR_SET, "vale0:a", &hdr) == 0);
	hdr.nr_hdr_len = 99;
	CHECK(REQ(PORT_HDR_GET, "vale0:a", &hdr) == 0);
	SAME(hdr.nr_hdr_len, 10);
	FAILS(REQ(PORT_HDR_GET, "vale0:none", &hdr), ENXIO);
	FAILS(REQ(PORT_HDR_GET, "none{1", &hdr), ENODEV);
	hdr.nr_hdr_len = 0;
	CHECK(REQ(PORT_HDR_SET, "vale0:a", &hdr) == 0);
	/* LIST */
	CHECK(REQ(VALE_LIST, "vale0:a", &list) == 0);
	CHECK(REQ(VALE_LIST, "vale0:none", &list) == 0);
	SAME(list.nr_port_idx, 255);
	FAILS(REQ(VALE_LIST, "vale7:a", &list), ENOENT);
	FAILS(REQ(VALE_LIST, "eth0", &list), EINVAL);
	list.nr_bridge_idx = 0;
	list.nr_port_idx = 0;
	memset(&h, 0, sizeof(h));
	h.nr_version = NETMAP_API;
	h.nr_reqtype = NETMAP_REQ_VALE_LIST;
	h.nr_body = (uintptr_t)&list;
	CHECK(ioctl(fd, NIOCCTRL, &h) == 0);
	CHECK(strcmp(h.nr_name, "vale0:a") == 0);
	list.nr_port_idx++;
	h.nr_name[0] = 0;
	FAILS(ioctl(fd, NIOCCTRL, &h), ENOENT);
	/* Persistent ports. */
	FAILS(REQ(VALE_NEWIF, "vale0:x", &nif), EINVAL);
	FAILS(REQ(VALE_NEWIF, "abcdefghijklmnop", &nif), EINVAL);
	nif.nr_mem_id = 999;
	FAILS(REQ(VALE_NEWIF, "pers", &nif), EINVAL);
	nif = (struct nmreq_vale_newif){ .nr_tx_slots = 100, .nr_rx_slots = 50,
		.nr_tx_rings = 2, .nr_rx_rings = 3 };
	CHECK(REQ(VALE_NEWIF, "pers", &nif) == 0);
	CHECK(nif.nr_tx_slots == 100 && nif.nr_rx_slots == 50);
	CHECK(nif.nr_tx_rings == 2 && nif.nr_rx_rings == 3 && nif.nr_mem_id > 0);
	FAILS(REQ(VALE_NEWIF, "pers", &nif), EEXIST);
	FAILS(REQ(VALE_DELIF, "none", NULL), ENXIO);
	FAILS(REQ(VALE_DELIF, "vale0:a", NULL), EINVAL);
	att.reg.nr_mode = NR_REG_ALL_NIC;
	FAILS(REQ(VALE_ATTACH, "pers", &att), EINVAL);
	FAILS(REQ(VALE_ATTACH, "vale0:nosuch", &att), EINVAL);
	att.reg.nr_ringid = 1;
	FAILS(REQ(VALE_ATTACH, "vale0:pers", &att), EINVAL);
	att.reg.nr_ringid = 0;
	att.reg.nr_mode = NR_REG_ONE_NIC;
	FAILS(REQ(VALE_ATTACH, "vale0:pers", &att), EINVAL);
	att.reg.nr_mode = NR_REG_ALL_NIC;
	CHECK(REQ(VALE_ATTACH, "vale0:pers", &att) == 0);
	CHECK(att.port_index != 255);
	FAILS(REQ(VALE_ATTACH, "vale0:pers", &att), EBUSY);
	FAILS(REQ(VALE_DELIF, "pers", NULL), EBUSY);
	struct port v;
	if (!isolated()) { /* whom it is not open to */
		v = port("vale0:pers");
		SAME(v.reg.nr_tx_rings, 2);
		unport(&v);
	}
	pol.nr_mode = NETMAP_POLLING_MODE_SINGLE_CPU;
	pol.nr_num_polling_cpus = 1;
	FAILS(REQ(VALE_POLLING_ENABLE, "vale0:pers", &pol), EOPNOTSUPP);
	FAILS(REQ(VALE_POLLING_ENABLE, "pers", &pol), EINVAL);
	pol.nr_num_polling_cpus = 2;
	FAILS(REQ(VALE_POLLING_ENABLE, "vale0:pers", &pol), EINVAL);
	FAILS(REQ(VALE_DETACH, "pers", &det), EINVAL);
	FAILS(REQ(VALE_DETACH, "vale0:none", &det), ENXIO);
	CHECK(REQ(VALE_DETACH, "vale0:pers", &det) == 0);
	SAME(det.port_index, att.port_index);
	if (!isolated()) {
		v = port("pers");
		FAILS(REQ(VALE_DELIF, "pers", NULL), EBUSY);
		unport(&v);
	}
	for (int i = 0; REQ(VALE_DELIF, "pers", NULL) != 0; i++) {
		CHECK(errno == EBUSY && i < 2000);
		pause_ms(5);
	}
	FAILS(REQ(VALE_DELIF, "pers", NULL), ENXIO);
	/* Of a descriptor that is not bound. */
	FAILS(ioctl(fd, NIOCTXSYNC, NULL), ENXIO);
	FAILS(ioctl(fd, NIOCRXSYNC, NULL), ENXIO);
	struct nmreq_sync_kloop_start start = { 0 };
	FAILS(REQ(SYNC_KLOOP_START, "", &start), ENXIO);
	CHECK(REQ(SYNC_KLOOP_STOP, "", NULL) == 0);
	FAILS(REQ(CSB_ENABLE, "", NULL), EINVAL);
}

static void
legacy(void)
{
	struct nmreq r;
	struct nm_ifreq conf;
	int fd = open("/dev/netmap", O_RDWR), fd2;

	memset(&r, 0, sizeof(r));
	r.nr_version = 13;
	strcpy(r.nr_name, "vale0:l");
	FAILS(ioctl(fd, NIOCREGIF, &r), EINVAL);
	r.nr_version = NETMAP_API;
	r.nr_ringid = NETMAP_NO_TX_POLL;
	r.nr_arg1 = 77;
	CHECK(ioctl(fd, NIOCREGIF, &r) == 0);
	CHECK(r.nr_ringid == NETMAP_NO_TX_POLL && r.nr_flags == 0);
	CHECK(r.nr_arg1 == 77 && r.nr_arg2 > 0);
	CHECK(r.nr_tx_slots == 1024 && r.nr_tx_rings == 1 && r.nr_memsize > 0);
	fd2 = open("/dev/netmap", O_RDWR);
	memset(&r, 0, sizeof(r));
	r.nr_version = NETMAP_API + 100;
	strcpy(r.nr_name, "vale0:l");
	CHECK(ioctl(fd2, NIOCGINFO, &r) == 0);
	SAME(r.nr_rx_slots, 1024);
	r.nr_arg2 = 0;
	r.nr_flags = NR_REG_PIPE_MASTER;
	r.nr_ringid = 5;
	CHECK(ioctl(fd2, NIOCREGIF, &r) == 0);
	SAME(r.nr_ringid, 5);
	close(fd2);
	fd2 = open("/dev/netmap", O_RDWR);
	memset(&r, 0, sizeof(r));
	r.nr_version = NETMAP_API;
	r.nr_cmd = NETMAP_BDG_NEWIF;
	strcpy(r.nr_name, "lp");
	CHECK(ioctl(fd2, NIOCREGIF, &r) == 0);
	FAILS(ioctl(fd2, NIOCREGIF, &r), EEXIST);
	r.nr_cmd = NETMAP_BDG_ATTACH;
	strcpy(r.nr_name, "vale0:lp");
	CHECK(ioctl(fd2, NIOCREGIF, &r) == 0);
	r.nr_cmd = NETMAP_BDG_LIST;
	r.nr_arg1 = r.nr_arg2 = 0;
	CHECK(ioctl(fd2, NIOCGINFO, &r) == 0);
	r.nr_name[0] = 0;
	r.nr_arg2 = 0;
	CHECK(ioctl(fd2, NIOCGINFO, &r) == 0);
	CHECK(strncmp(r.nr_name, "vale0:", 6) == 0);
	r.nr_arg2 = 200;
	r.nr_name[0] = 0;
	FAILS(ioctl(fd2, NIOCGINFO, &r), ENOENT);
	r.nr_cmd = NETMAP_BDG_DETACH;
	strcpy(r.nr_name, "vale0:lp");
	CHECK(ioctl(fd2, NIOCREGIF, &r) == 0);
	r.nr_cmd = NETMAP_BDG_DELIF;
	strcpy(r.nr_name, "lp");
	CHECK(ioctl(fd2, NIOCREGIF, &r) == 0);
	r.nr_cmd = NETMAP_PT_HOST_CREATE;
	FAILS(ioctl(fd2, NIOCREGIF, &r), ENOMEM);
	r.nr_cmd = 99;
	FAILS(ioctl(fd2, NIOCREGIF, &r), EINVAL);
	memset(&conf, 0, sizeof(conf));
	strcpy(conf.nifr_name, "vale0");
	FAILS(ioctl(fd2, NIOCCONFIG, &conf), EINVAL);
	FAILS(ioctl(fd2, NIOCREGIF, NULL), EINVAL);
	FAILS(ioctl(fd2, NIOCREGIF, (void *)1), EFAULT);
}

/* Options: what is unknown, too much, or circular. */
static void
options(void)
{
	struct nmreq_option unknown = { .nro_reqtype = 1000 };
	struct nmreq_opt_csb csb, again;
	struct nmreq_port_info_get info = { 0 };
	struct port p;

	new_port(&p);
	SAME(try_reg(&p, "vale0:o", &unknown), EOPNOTSUPP);
	SAME(unknown.nro_status, EOPNOTSUPP);
	unknown.nro_status = 0;
	CHECK(request(p.fd, NETMAP_REQ_PORT_INFO_GET, "vale0:o", &info, &unknown) == 0);
	SAME(unknown.nro_status, EOPNOTSUPP);
	unknown.nro_next = (uintptr_t)&unknown;
	SAME(try_reg(&p, "vale0:o", &unknown), EMSGSIZE);
	SAME(unknown.nro_next, (uintptr_t)&unknown);
	memset(&csb, 0, sizeof(csb));
	csb.nro_opt.nro_reqtype = NETMAP_REQ_OPT_CSB;
	again = csb;
	csb.nro_opt.nro_next = (uintptr_t)&again;
	SAME(try_reg(&p, "vale0:o", &csb.nro_opt), EINVAL);
	SAME(csb.nro_opt.nro_status, EINVAL);
	SAME(again.nro_opt.nro_status, EINVAL);
	csb.nro_opt.nro_next = 8;
	SAME(try_reg(&p, "vale0:o", &csb.nro_opt), EFAULT);
	csb.nro_opt.nro_next = 0;
	p.reg.nr_flags = NR_EXCLUSIVE;
	SAME(try_reg(&p, "vale0:o", &csb.nro_opt), EINVAL);
	csb.csb_atok = csb.csb_ktoa = 64;
	SAME(try_reg(&p, "vale0:o", &csb.nro_opt), EFAULT);
	csb.csb_ktoa = 72;
	SAME(try_reg(&p, "vale0:o", &csb.nro_opt), EINVAL);
	SAME(try_reg(&p, "vale0:o", NULL), 0);
}

/* Which rings a descriptor sees, by mode; who excludes whom. */
static int
pattern(const char *name, uint32_t mode, int ringid, uint64_t flags, uint32_t extra)
{
	struct port p;
	int bits = 0;

	new_port(&p);
	p.reg.nr_mode = mode;
	p.reg.nr_ringid = ringid;
	p.reg.nr_flags = flags;
	p.reg.nr_tx_rings = 2;
	p.reg.nr_rx_rings = 3;
	p.reg.nr_extra_bufs = extra;
	SAME(try_reg(&p, name, NULL), 0);
	map(&p);
	CHECK(p.reg.nr_tx_rings == 2 && p.reg.nr_rx_rings == 3);
	for (int i = 0; i < 5; i++)
		bits |= (p.nifp->ring_ofs[i] != 0) << i;
	unport(&p);
	return bits;
}

static void
rings(void)
{
	struct port p, q;

	SAME(pattern("vale1:r", NR_REG_ALL_NIC, 0, 0, 0), 0x1f);
	SAME(pattern("vale2:r", NR_REG_ONE_NIC, 1, 0, 0), 0x0a);
	SAME(pattern("vale3:r", NR_REG_ONE_NIC, 2, 0, 0), 0x11);
	SAME(pattern("vale4:r", NR_REG_ALL_NIC, 0, NR_RX_RINGS_ONLY, 0), 0x1c);
	SAME(pattern("vale5:r", NR_REG_ALL_NIC, 0, NR_TX_RINGS_ONLY, 0), 0x03);
	SAME(pattern("vale6:r", NR_REG_ALL_NIC, 0, NR_RX_RINGS_ONLY | NR_TX_RINGS_ONLY, 0), 0);
	/* Exclusive by ring and by direction. */
	new_port(&p);
	p.reg.nr_mode = NR_REG_ONE_NIC;
	p.reg.nr_flags = NR_EXCLUSIVE | NR_TX_RINGS_ONLY;
	p.reg.nr_tx_rings = p.reg.nr_rx_rings = 2;
	SAME(try_reg(&p, "vale0:e", NULL), 0);
	SAME(reg_errno("vale0:e", NR_REG_ALL_NIC, 0, 0, 0, NULL), EBUSY);
	SAME(reg_errno("vale0:e", NR_REG_ONE_NIC, 0, 0, 0, NULL), EBUSY);
	q = port_with("vale0:e", NR_REG_ONE_NIC, 0, NR_EXCLUSIVE | NR_RX_RINGS_ONLY);
	SAME(reg_errno("vale0:e", NR_REG_ONE_NIC, 0, NR_RX_RINGS_ONLY, 0, NULL), EBUSY);
	SAME(reg_errno("vale0:e", NR_REG_ONE_NIC, 1, NR_EXCLUSIVE, 0, NULL), 0);
	unport(&q);
}

/* Extra buffers: a list to take from and to give back, rewritten. */
static void
extra(void)
{
	struct nmreq_pools_info pools = { 0 };

	for (int round = 0; round < 4; round++) {
		struct port p;
		struct netmap_ring *r;
		uint32_t list[58], n = 0;

		new_port(&p);
		p.reg.nr_extra_bufs = 58;
		SAME(try_reg(&p, "x{1", NULL), 0);
		SAME(p.reg.nr_extra_bufs, 58);
		map(&p);
		r = txr(&p, 0);
		for (uint32_t i = p.nifp->ni_bufs_head; i; n++) {
			CHECK(n < 58 && i > 1);
			list[n] = i;
			i = *(uint32_t *)NETMAP_BUF(r, i);
		}
		SAME(n, 58);
		/* Backwards, and one exchanged for a ring's. */
		uint32_t mine = r->slot[3].buf_idx;
		r->slot[3].buf_idx = list[0];
		r->slot[3].flags = NS_BUF_CHANGED;
		list[0] = mine;
		p.nifp->ni_bufs_head = list[57];
		for (int i = 57; i >= 0; i--)
			*(uint32_t *)NETMAP_BUF(r, list[i]) = i ? list[i - 1] : 0;
		if (round == 2) /* a circle */
			*(uint32_t *)NETMAP_BUF(r, list[0]) = list[57];
		if (round == 3) /* nonsense */
			*(uint32_t *)NETMAP_BUF(r, list[0]) = 0xfffffff0;
		pools.nr_mem_id = 0;
		CHECK(request(p.fd, NETMAP_REQ_POOLS_INFO_GET, "x{1", &pools, NULL) == 0);
		SAME(pools.nr_mem_id, p.reg.nr_mem_id);
		unport(&p);
	}
}

static void
monitors(void)
{
	struct port b, m[4];

	a = port("vale0:a");
	b = port("vale0:b");
	SAME(reg_errno("vale0:new", NR_REG_ALL_NIC, 0, NR_MONITOR_RX, 0, NULL), EINVAL);
	m[0] = port_with("vale0:b", NR_REG_ALL_NIC, 0, NR_MONITOR_RX);
	m[1] = port_with("vale0:b", NR_REG_ALL_NIC, 0, NR_MONITOR_TX);
	m[2] = port_with("vale0:b", NR_REG_ALL_NIC, 0, NR_MONITOR_RX | NR_MONITOR_TX);
	send_one(&a, 'i');
	SAME(recv_one(&m[0]), 'i');
	SAME(recv_one(&m[2]), 'i');
	nothing(&m[1]);
	SAME(recv_one(&b), 'i');
	send_one(&b, 'o');
	SAME(recv_one(&m[1]), 'o');
	struct netmap_ring *r = rxr(&m[2], 0);
	SAME(recv_one(&m[2]), 'o');
	CHECK(r->slot[(r->head + r->num_slots - 1) % r->num_slots].flags & NS_TXMON);
	nothing(&m[0]);
	/* It cannot send, but says so only to poll. */
	struct netmap_ring *t = txr(&m[0], 0);
	struct pollfd f = { .fd = m[0].fd, .events = POLLIN };
	t->head = t->cur = nm_ring_next(t, t->head);
	CHECK(ioctl(m[0].fd, NIOCTXSYNC, NULL) == 0);
	SAME(poll(&f, 1, PATIENCE_MS), 1);
	CHECK(f.revents & POLLERR);
	/* With the watched application's own buffers, from now on. They are not
	 * to be had from afar. */
	CHECK(ioctl(b.fd, NIOCRXSYNC, NULL) == 0);
	if (isolated()) {
		SAME(reg_errno("vale0:b", NR_REG_ALL_NIC, 0, NR_ZCOPY_MON, 0, NULL), EOPNOTSUPP);
		return;
	}
	m[3] = port_with("vale0:b", NR_REG_ALL_NIC, 0, NR_ZCOPY_MON);
	CHECK(m[3].reg.nr_flags & NR_MONITOR_TX && m[3].reg.nr_flags & NR_MONITOR_RX);
	SAME(m[3].reg.nr_mem_id, b.reg.nr_mem_id);
	send_one(&a, 'z');
	SAME(recv_one(&b), 'z');
	CHECK(ioctl(b.fd, NIOCRXSYNC, NULL) == 0);
	SAME(recv_one(&m[3]), 'z');
	/* The watched port goes. */
	unport(&b);
	f.fd = m[2].fd;
	for (int i = 0;; i++) {
		CHECK(i < 2000);
		CHECK(poll(&f, 1, 0) >= 0);
		if (f.revents & POLLERR)
			break;
		pause_ms(5);
	}
	FAILS(ioctl(m[2].fd, NIOCRXSYNC, NULL), EIO);
	for (int i = 0; i < 4; i++)
		unport(&m[i]);
}

static void
nulls(void)
{
	struct port p, q;

	a = port("vale0:a");
	new_port(&p);
	p.reg.nr_mode = NR_REG_NULL;
	p.reg.nr_mem_id = a.reg.nr_mem_id;
	p.reg.nr_tx_rings = 10;
	p.reg.nr_rx_rings = 5;
	p.reg.nr_tx_slots = 32;
	p.reg.nr_rx_slots = 16;
	p.reg.nr_extra_bufs = 8;
	SAME(try_reg(&p, "whatever", NULL), 0);
	CHECK(p.reg.nr_tx_rings == 10 && p.reg.nr_rx_rings == 5);
	SAME(p.reg.nr_mem_id, a.reg.nr_mem_id);
	map(&p);
	struct netmap_ring *r = txr(&p, 9);
	SAME(r->num_slots, 32);
	r->head = r->cur = 5;
	CHECK(ioctl(p.fd, NIOCTXSYNC, NULL) == 0);
	CHECK(ioctl(p.fd, NIOCRXSYNC, NULL) == 0);
	SAME(nm_ring_empty(rxr(&p, 4)), 1);
	new_port(&q);
	q.reg.nr_mode = NR_REG_NULL;
	q.reg.nr_mem_id = a.reg.nr_mem_id;
	SAME(try_reg(&q, "empty", NULL), 0);
	unport(&p);
}

static void
parameters(void)
{
	FILE *f = fopen("/sys/module/netmap/parameters/buf_size", "r");
	struct dirent *e;
	struct stat st;
	int n = 0, found = 0, fd;
	char text[32];
	DIR *d;

	CHECK(f && fscanf(f, "%d", &n) == 1 && n == 2048);
	fclose(f);
	f = fopen("/sys/module/netmap/parameters/verbose", "r+");
	CHECK(f != NULL);
	fprintf(f, "3\n");
	fclose(f);
	fd = open("/sys/module/netmap/parameters/verbose", O_RDONLY);
	CHECK(fd >= 0 && read(fd, text, sizeof(text)) == 2 && text[0] == '3');
	close(fd);
	CHECK(access("/sys/module/netmap/parameters/no_timestamp", W_OK) == 0);
	CHECK(stat("/sys/module/netmap", &st) == 0 && S_ISDIR(st.st_mode));
	FAILS(open("/sys/module/netmap/parameters/none", O_RDONLY), ENOENT);
	FAILS(access("/sys/module/netmapx", R_OK), ENOENT);
	d = opendir("/sys/module/netmap/parameters");
	CHECK(d != NULL);
	while ((e = readdir(d)))
		found += strcmp(e->d_name, "buf_size") == 0;
	SAME(found, 1);
	closedir(d);
}

int
main(int argc, char **argv)
{
	static const struct test tests[] = {
		{ "registers", registers }, { "requests", requests },
		{ "legacy", legacy }, { "options", options },
		{ "rings", rings }, { "extra", extra },
		{ "monitors", monitors }, { "nulls", nulls },
		{ "parameters", parameters }, { NULL, NULL },
	};

	return run_tests(tests, argc, argv);
}
