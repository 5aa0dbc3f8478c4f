/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The helper library for netmap programs: opening ports by name, mapping and
 * sharing regions, and building requests. See nmport_open(3), nmreq_decode(3)
 * and nmctx_get(3). Link with -lnetvale (or -lnetmap, which is the same).
 */
#ifndef LIBNETMAP_H_
#define LIBNETMAP_H_

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <net/netmap_user.h>

#ifdef __cplusplus
extern "C" {
#endif

struct nmctx;
struct nmem_d;
struct nmport_cleanup_d;
struct nmport_d;

/* ------------------------------------------------------------------------ */
/* Ports                                                                     */
/* ------------------------------------------------------------------------ */

/* A port. All but hdr and reg is to be read only. */
struct nmport_d {
	struct nmreq_header hdr;
	struct nmreq_register reg;

	/* The region. Ports with the same one can exchange buffers. */
	struct nmem_d *mem;
	struct nmctx *ctx;
	int register_done;
	int mmap_done;
	struct nmreq_opt_extmem *extmem;	/* among the options, or NULL */

	int fd;				/* -1: not open */
	struct netmap_if *nifp;
	uint16_t first_tx_ring;		/* bound rings; none if last < first */
	uint16_t last_tx_ring;
	uint16_t first_rx_ring;
	uint16_t last_rx_ring;
	uint16_t cur_tx_ring;		/* where nmport_inject() tries first */
	uint16_t cur_rx_ring;

	struct nmport_cleanup_d *clist;	/* private */
};

/*
 * Opens a port: "netmap:eth0", "vale0:a", see nmport_open(3). NULL if that
 * fails. Functions that fail set errno and send a message to their context.
 */
struct nmport_d *nmport_open(const char *portspec);
/* Closes it. */
void nmport_close(struct nmport_d *d);
/* Copies a packet into the transmit rings. Its size, or 0 if there is no room. */
int nmport_inject(struct nmport_d *d, const void *buf, size_t size);

/*
 * The steps of nmport_open(), each with its opposite:
 *	nmport_prepare = nmport_new + nmport_parse
 *	nmport_open_desc = nmport_register + nmport_mmap
 * Those that return an int: 0, or -1.
 */
struct nmport_d *nmport_new(void);
void nmport_delete(struct nmport_d *d);
int nmport_parse(struct nmport_d *d, const char *portspec);
void nmport_undo_parse(struct nmport_d *d);
struct nmport_d *nmport_prepare(const char *portspec);
void nmport_undo_prepare(struct nmport_d *d);
int nmport_register(struct nmport_d *d);
void nmport_undo_register(struct nmport_d *d);
int nmport_mmap(struct nmport_d *d);
void nmport_undo_mmap(struct nmport_d *d);
int nmport_open_desc(struct nmport_d *d);
void nmport_undo_open_desc(struct nmport_d *d);

/* A prepared port with the same request, without its options. */
struct nmport_d *nmport_clone(struct nmport_d *d);

/* Between nmport_prepare() and nmport_open_desc(): memory of the program's. */
int nmport_extmem(struct nmport_d *d, void *base, size_t size);
int nmport_extmem_from_file(struct nmport_d *d, const char *fname);
/* Its shape: set it before registering, read it after. NULL: there is none. */
struct nmreq_pools_info *nmport_extmem_getinfo(struct nmport_d *d);

/* Between the same: have data begin at offsets in their buffers. */
int nmport_offset(struct nmport_d *d, uint64_t initial, uint64_t maxoff,
	uint64_t bits, uint64_t mingap);

/* Which options a portspec may have. "offset" has to be enabled. */
void nmport_disable_option(const char *opt);
int nmport_enable_option(const char *opt);

/* ------------------------------------------------------------------------ */
/* Requests                                                                  */
/* ------------------------------------------------------------------------ */

/* An empty request. */
void nmreq_header_init(struct nmreq_header *hdr, uint16_t reqtype, void *body);

/*
 * Read the parts of a portspec one after another: the name, the mode, and the
 * options. The first two move the pointer behind what they read. 0, or -1 with
 * errno EINVAL and nothing changed.
 */
int nmreq_header_decode(const char **ppspec, struct nmreq_header *hdr,
	struct nmctx *ctx);
int nmreq_register_decode(const char **pmode, struct nmreq_register *reg,
	struct nmctx *ctx);
struct nmreq_opt_parser;
int nmreq_options_decode(const char *opt, struct nmreq_opt_parser *parsers,
	void *token, struct nmctx *ctx);

/* Reads the options of one kind. 0, or -1 with errno set. */
struct nmreq_parse_ctx;
typedef int (*nmreq_opt_parser_cb)(struct nmreq_parse_ctx *);

#define NMREQ_OPT_MAXKEYS 16

/* A key of an option. */
struct nmreq_opt_key {
	const char *key;	/* with '_' where users write '-' */
	int id;			/* place in nmreq_parse_ctx.keys */
	unsigned int flags;
#define NMREQ_OPTK_ALLOWEMPTY	(1U << 0)	/* needs no value */
#define NMREQ_OPTK_MUSTSET	(1U << 1)	/* must be given */
#define NMREQ_OPTK_DEFAULT	(1U << 2)	/* set by option=value */
};

/* An option: its name, its keys, and who reads it. */
struct nmreq_opt_parser {
	const char *prefix;
	nmreq_opt_parser_cb parse;
	int default_key;	/* place of the default key, -1: none */
	int nr_keys;
	unsigned int flags;
#define NMREQ_OPTF_DISABLED	(1U << 0)
#define NMREQ_OPTF_ALLOWEMPTY	(1U << 1)	/* needs no value */
	struct nmreq_opt_parser *next;
	struct nmreq_opt_key keys[NMREQ_OPT_MAXKEYS];
} __attribute__((aligned(16)));

/* What a parser is called with. The values live until it returns. */
struct nmreq_parse_ctx {
	struct nmctx *ctx;
	void *token;
	const char *keys[NMREQ_OPT_MAXKEYS];	/* NULL: not given */
};

/* The region of a port; moves the pointer behind its name. -1: failed. */
int32_t nmreq_get_mem_id(const char **portname, struct nmctx *ctx);

/* A request's list of options. */
void nmreq_push_option(struct nmreq_header *, struct nmreq_option *);
void nmreq_remove_option(struct nmreq_header *, struct nmreq_option *);
struct nmreq_option *nmreq_find_option(struct nmreq_header *, uint32_t);
void nmreq_free_options(struct nmreq_header *);	/* all from malloc() */
const char *nmreq_option_name(uint32_t);
#define nmreq_foreach_option(h_, o_) \
	for ((o_) = (struct nmreq_option *)(uintptr_t)(h_)->nr_options; \
		(o_) != NULL; \
		(o_) = (struct nmreq_option *)(uintptr_t)(o_)->nro_next)

/* ------------------------------------------------------------------------ */
/* Contexts                                                                  */
/* ------------------------------------------------------------------------ */

typedef void (*nmctx_error_cb)(struct nmctx *, const char *);
typedef void *(*nmctx_malloc_cb)(struct nmctx *, size_t);
typedef void (*nmctx_free_cb)(struct nmctx *, void *);
typedef void (*nmctx_lock_cb)(struct nmctx *, int);

/* Where messages go, where memory comes from, and what is mapped. */
struct nmctx {
	int verbose;		/* 0: no messages */
	nmctx_error_cb error;
	nmctx_malloc_cb malloc;
	nmctx_free_cb free;
	nmctx_lock_cb lock;	/* of the list of regions; may be NULL */
	struct nmem_d *mem_descs;
};

/* The default context. */
struct nmctx *nmctx_get(void);
/* Another one; returns the one before. */
struct nmctx *nmctx_set_default(struct nmctx *ctx);
/* Sees to it that the default context has a lock. It has from the beginning. */
void nmctx_set_threadsafe(void);

/* A mapped region. */
struct nmem_d {
	uint16_t mem_id;
	int refcount;		/* ports that use the mapping */
	void *mem;
	size_t size;
	int is_extmem;
	struct nmem_d *next;
	struct nmem_d *prev;
};

/* The callbacks of a context. */
void nmctx_error(struct nmctx *, const char *);
void *nmctx_malloc(struct nmctx *, size_t);
void nmctx_free(struct nmctx *, void *);
void nmctx_lock(struct nmctx *);
void nmctx_unlock(struct nmctx *);

/* Formats a message and sends it. */
static inline void __attribute__((format(printf, 2, 3)))
nmctx_ferror(struct nmctx *ctx, const char *fmt, ...)
{
	char text[1000];
	va_list args;

	va_start(args, fmt);
	if (vsnprintf(text, sizeof(text), fmt, args) >= 0)
		nmctx_error(ctx, text);
	va_end(args);
}

#ifdef __cplusplus
}
#endif

#endif /* LIBNETMAP_H_ */
