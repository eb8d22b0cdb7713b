/* msgpack_fast.h: msgpack values by their first bytes (github.com/msgpack/msgpack, spec.md).
 *
 * For the items that need no serializer: the Python layer writes them straight into a record, and reads them straight
 * out of it.  What is written are the very bytes that msgpack's own packer writes, and whatever does not fill its
 * record to the last byte is left to its unpacker.
 */
#ifndef SHMQUEUE_MSGPACK_FAST_H
#define SHMQUEUE_MSGPACK_FAST_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define SCALAR_HEAD_MAX 9 /* bytes: a type byte and 64 bits */

/* What a value begins with: a type byte, then the last `width` bytes of a number.  The body of a string follows. */
struct scalar_head {
    unsigned char type;
    uint8_t width;
    uint64_t number;
};

enum scalar_kind {
    SCALAR_NONE, /* it is something else */
    SCALAR_NIL,
    SCALAR_FALSE,
    SCALAR_TRUE,
    SCALAR_INT,
    SCALAR_UINT, /* above INT64_MAX */
    SCALAR_FLOAT,
    SCALAR_STR,
    SCALAR_BIN,
};

struct scalar {
    enum scalar_kind kind;
    uint32_t size; /* bytes, all of it */
    union {
        int64_t number;
        uint64_t unsigned_number;
        double real;
        struct {
            uint32_t from; /* where the body begins */
            uint32_t length;
        } body;
    };
};

/* ---- writing ---- */

static inline struct scalar_head scalar_typed(unsigned char type, uint64_t number, uint8_t width)
{
    return (struct scalar_head){.type = type, .width = width, .number = number};
}

/* Writes a head, the number's most significant byte first, and returns its length.  There must be room for
 * SCALAR_HEAD_MAX bytes: all are written, which is faster than to count. */
static inline uint32_t scalar_write(struct scalar_head head, unsigned char *bytes)
{
    uint64_t number = head.width > 0 ? head.number << (64 - 8 * head.width) : 0;
    bytes[0] = head.type;
    for (unsigned i = 0; i < 8; i++) { /* compilers make one swap and one store of it */
        bytes[1 + i] = (unsigned char)(number >> (56 - 8 * i));
    }
    return 1u + head.width;
}

static inline struct scalar_head scalar_of_unsigned(uint64_t number)
{
    if (number < 0x80) {
        return scalar_typed((unsigned char)number, 0, 0);
    }
    return number <= UINT8_MAX    ? scalar_typed(0xcc, number, 1)
           : number <= UINT16_MAX ? scalar_typed(0xcd, number, 2)
           : number <= UINT32_MAX ? scalar_typed(0xce, number, 4)
                                  : scalar_typed(0xcf, number, 8);
}

static inline struct scalar_head scalar_of_int(int64_t number)
{
    if (number >= -32) {
        return number >= 0 ? scalar_of_unsigned((uint64_t)number) : scalar_typed((unsigned char)number, 0, 0);
    }
    return number >= INT8_MIN    ? scalar_typed(0xd0, (uint64_t)number, 1)
           : number >= INT16_MIN ? scalar_typed(0xd1, (uint64_t)number, 2)
           : number >= INT32_MIN ? scalar_typed(0xd2, (uint64_t)number, 4)
                                 : scalar_typed(0xd3, (uint64_t)number, 8);
}

static inline struct scalar_head scalar_of_float(double real)
{
    uint64_t bits;
    memcpy(&bits, &real, sizeof bits);
    return scalar_typed(0xcb, bits, 8);
}

static inline struct scalar_head scalar_of_str(uint32_t length)
{
    if (length < 32) {
        return scalar_typed((unsigned char)(0xa0 | length), 0, 0);
    }
    return length <= UINT8_MAX    ? scalar_typed(0xd9, length, 1)
           : length <= UINT16_MAX ? scalar_typed(0xda, length, 2)
                                  : scalar_typed(0xdb, length, 4);
}

static inline struct scalar_head scalar_of_bin(uint32_t length)
{
    return length <= UINT8_MAX    ? scalar_typed(0xc4, length, 1)
           : length <= UINT16_MAX ? scalar_typed(0xc5, length, 2)
                                  : scalar_typed(0xc6, length, 4);
}

/* ---- reading ---- */

static inline uint64_t scalar_number(const unsigned char *bytes, unsigned width)
{
    uint64_t number = bytes[0];
    for (unsigned i = 1; i < width; i++) {
        number = number << 8 | bytes[i];
    }
    return number;
}

/* How many bytes of a number follow a type byte from 0xc4 on; 0 where none does or the type is no scalar. */
static inline unsigned scalar_width(unsigned char type)
{
    static const unsigned char widths[0xe0 - 0xc4] = {
        [0xc4 - 0xc4] = 1, [0xc5 - 0xc4] = 2, [0xc6 - 0xc4] = 4, [0xcb - 0xc4] = 8, [0xcc - 0xc4] = 1,
        [0xcd - 0xc4] = 2, [0xce - 0xc4] = 4, [0xcf - 0xc4] = 8, [0xd0 - 0xc4] = 1, [0xd1 - 0xc4] = 2,
        [0xd2 - 0xc4] = 4, [0xd3 - 0xc4] = 8, [0xd9 - 0xc4] = 1, [0xda - 0xc4] = 2, [0xdb - 0xc4] = 4,
    };
    return type >= 0xc4 && type < 0xe0 ? widths[type - 0xc4] : 0;
}

static inline struct scalar scalar_sized(struct scalar scalar, uint32_t size, uint32_t length)
{
    scalar.size = size;
    scalar.kind = size <= length ? scalar.kind : SCALAR_NONE;
    return scalar;
}

/* The scalar that `length` bytes begin with, by the first ones: `head` has SCALAR_HEAD_MAX of them, or all. */
static inline struct scalar scalar_read(const unsigned char *head, uint32_t length)
{
    struct scalar scalar = {.kind = SCALAR_NONE};
    if (length == 0) {
        return scalar;
    }
    unsigned char type = head[0];
    if (type >= 0xa0 && type < 0xc0) {
        uint32_t body = type & 31u;
        return scalar_sized((struct scalar){.kind = SCALAR_STR, .body = {1, body}}, 1 + body, length);
    }
    unsigned width = scalar_width(type);
    if (width == 0) {
        scalar.kind = type == 0xc0   ? SCALAR_NIL
                      : type == 0xc2 ? SCALAR_FALSE
                      : type == 0xc3 ? SCALAR_TRUE
                      : type < 0x80 || type >= 0xe0 ? SCALAR_INT
                                                    : SCALAR_NONE;
        scalar.number = (int8_t)type;
        return scalar_sized(scalar, 1, length);
    }
    if (length <= width) {
        return scalar;
    }
    uint64_t number = scalar_number(head + 1, width);
    bool is_bin = type <= 0xc6, is_str = type >= 0xd9;
    if (is_bin || is_str) {
        scalar.kind = number <= length - 1 - width ? is_bin ? SCALAR_BIN : SCALAR_STR : SCALAR_NONE;
        scalar.body.from = 1 + width;
        scalar.body.length = (uint32_t)number;
        return scalar_sized(scalar, 1 + width + (scalar.kind != SCALAR_NONE ? (uint32_t)number : 0), length);
    }
    scalar.kind = SCALAR_INT;
    scalar.unsigned_number = number;
    if (type == 0xcb) {
        scalar.kind = SCALAR_FLOAT; /* the bits are those of the double */
    } else if (type == 0xcf && number > INT64_MAX) {
        scalar.kind = SCALAR_UINT;
    } else if (type >= 0xd0 && width < 8 && number >> (8 * width - 1) != 0) {
        scalar.unsigned_number = number | UINT64_MAX << (8 * width);
    }
    return scalar_sized(scalar, 1 + width, length);
}

/* ---- containers: how many items, or pairs, follow the head ---- */

struct container {
    bool is_one, is_map;
    uint32_t count;
    uint32_t size; /* of the head */
};

static inline struct scalar_head container_head(bool is_map, uint32_t count)
{
    if (count < 16) {
        return scalar_typed((unsigned char)((is_map ? 0x80 : 0x90) | count), 0, 0);
    }
    return count <= UINT16_MAX ? scalar_typed(is_map ? 0xde : 0xdc, count, 2)
                               : scalar_typed(is_map ? 0xdf : 0xdd, count, 4);
}

static inline struct container container_read(const unsigned char *head, uint32_t length)
{
    struct container container = {.is_one = false};
    unsigned char type = length > 0 ? head[0] : 0;
    if (type >= 0x80 && type < 0xa0) {
        return (struct container){.is_one = true, .is_map = type < 0x90, .count = type & 15u, .size = 1};
    }
    unsigned width = type == 0xdc || type == 0xde ? 2 : type == 0xdd || type == 0xdf ? 4 : 0;
    if (width != 0 && length > width) {
        container = (struct container){.is_one = true, .is_map = type >= 0xde, .size = 1 + width};
        container.count = (uint32_t)scalar_number(head + 1, width);
    }
    return container;
}

#endif
