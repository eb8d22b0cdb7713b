/* guards.h: every mapping of a segment between two pages that nobody may touch.
 *
 * Linked with --wrap=mmap,--wrap=munmap, so that this also holds for what the engine maps by itself.  A mapping that
 * does not end with a page has a tail, which nobody may touch either: AddressSanitizer knows that, and where the tail
 * lies behind the end of the file it is filled, and looked at afterwards. */
#ifndef SHMQUEUE_TESTS_GUARDS_H
#define SHMQUEUE_TESTS_GUARDS_H

#include "harness.h"

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define GUARDS_KNOW_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

#define PAGE 4096u
#define FILLING 0xC5

void *__real_mmap(void *address, size_t length, int protection, int flags, int file, off_t offset);
int __real_munmap(void *address, size_t length);
void *__wrap_mmap(void *address, size_t length, int protection, int flags, int file, off_t offset);
int __wrap_munmap(void *address, size_t length);

static size_t whole_pages(size_t length) { return (length + PAGE - 1) / PAGE * PAGE; }

void *__wrap_mmap(void *address, size_t length, int protection, int flags, int file, off_t offset)
{
    if (file < 0 || length == 0 || length > SIZE_MAX / 2 || (flags & MAP_FIXED) != 0) { /* fixed: within another one */
        return __real_mmap(address, length, protection, flags, file, offset);
    }
    size_t pages = whole_pages(length);
    unsigned char *space = __real_mmap(NULL, pages + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (space == MAP_FAILED) {
        return MAP_FAILED;
    }
    unsigned char *memory = __real_mmap(space + PAGE, length, protection, flags | MAP_FIXED, file, offset);
    if (memory == MAP_FAILED) {
        int error = errno;
        __real_munmap(space, pages + 2 * PAGE);
        errno = error;
        return MAP_FAILED;
    }
    ASAN_POISON_MEMORY_REGION(memory + length, pages - length);
    return memory;
}

int __wrap_munmap(void *address, size_t length)
{
    unsigned char *memory = address;
    size_t pages = whole_pages(length);
    ASAN_UNPOISON_MEMORY_REGION(memory, pages);
    return __real_munmap(memory - PAGE, pages + 2 * PAGE);
}

/* The bytes of the header page that mean nothing, and the header, which is not read again after ring_open(). */
static const struct {
    size_t from, to;
} untouchable[] = {
    {0, offsetof(struct segment, put)},
    {offsetof(struct segment, put) + sizeof(struct guard), offsetof(struct segment, put.ledgers)},
    {offsetof(struct segment, put.ledgers) + sizeof(struct ledgers), offsetof(struct segment, get)},
    {offsetof(struct segment, get) + sizeof(struct guard), offsetof(struct segment, get.ledgers)},
    {offsetof(struct segment, get.next) + sizeof(struct next), offsetof(struct segment, tally)},
    {offsetof(struct segment, tally) + sizeof(struct tally), offsetof(struct segment, room)},
    {offsetof(struct segment, room) + sizeof(struct room), offsetof(struct segment, notes)},
    {offsetof(struct segment, notes) + sizeof(struct notes), offsetof(struct segment, arenas)},
    {offsetof(struct segment, arenas) + sizeof(struct arena) * LAYOUT_ARENAS, offsetof(struct segment, leases)},
    {offsetof(struct segment, leases) + sizeof(struct leases), LAYOUT_HEADER_SIZE},
};

static void guard_header(struct ring *ring)
{
    for (size_t i = 0; i < sizeof untouchable / sizeof *untouchable; i++) {
        size_t length = untouchable[i].to - untouchable[i].from;
        ASAN_POISON_MEMORY_REGION((unsigned char *)ring->segment + untouchable[i].from, length);
    }
}

/* In a mapping of the whole file that has no guards.  The header is left as it is. */
static void fill_untouchable(unsigned char *whole, size_t size)
{
    for (size_t i = 1; i < sizeof untouchable / sizeof *untouchable; i++) {
        memset(whole + untouchable[i].from, FILLING, untouchable[i].to - untouchable[i].from);
    }
    memset(whole + size, FILLING, whole_pages(size) - size);
}

/* Since `before`, a copy of the header page. */
static bool untouchable_is_untouched(const unsigned char *whole, size_t size, const unsigned char *before)
{
    for (size_t i = 0; i < sizeof untouchable / sizeof *untouchable; i++) {
        size_t from = untouchable[i].from;
        if (memcmp(whole + from, before + from, untouchable[i].to - from) != 0) {
            return false;
        }
    }
    while (size % PAGE != 0 && whole[size] == FILLING) {
        size++;
    }
    return size % PAGE == 0;
}

#endif
