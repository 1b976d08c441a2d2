#include "zeromq_accept.h"

#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* How long ZeroMQ's thread rests before it finds the same connection waiting again. */
enum { REST_NS = 5000000 };

static int
after_accept(int fd)
{
    const struct timespec rest = {.tv_sec = 0, .tv_nsec = REST_NS};

    if (fd < 0 && errno == EMFILE) {
        nanosleep(&rest, NULL);
        errno = EAGAIN;
    }
    return fd;
}

static int
patient_accept4(int listener, struct sockaddr *address, socklen_t *size, int flags)
{
    return after_accept(accept4(listener, address, size, flags));
}

static int
patient_accept(int listener, struct sockaddr *address, socklen_t *size)
{
    return after_accept(accept(listener, address, size));
}

struct search {
    uintptr_t within;
    int found;
};

/* The tables of one object. */
struct tables {
    uintptr_t base;
    const ElfW(Sym) *symbols;
    const char *names;
    const ElfW(Rela) *entries[2];
    size_t bytes[2];
    uintptr_t readonly;
    size_t readonly_bytes;
};

/* Whether the loader has made an address of what the file says depends on the system. */
static const void *
at(uintptr_t base, ElfW(Addr) value)
{
    return (const void *)(value < base ? base + value : value);
}

static bool
read_tables(const struct dl_phdr_info *object, struct tables *tables)
{
    const ElfW(Dyn) *dynamic = NULL;
    ElfW(Sxword) kind = 0;

    memset(tables, 0, sizeof(*tables));
    tables->base = object->dlpi_addr;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];
        if (part->p_type == PT_DYNAMIC) {
            dynamic = (const void *)(tables->base + part->p_vaddr);
        }
        else if (part->p_type == PT_GNU_RELRO) {
            tables->readonly = tables->base + part->p_vaddr;
            tables->readonly_bytes = part->p_memsz;
        }
    }
    for (; dynamic != NULL && dynamic->d_tag != DT_NULL; dynamic++) {
        switch (dynamic->d_tag) {
        case DT_SYMTAB: tables->symbols = at(tables->base, dynamic->d_un.d_ptr); break;
        case DT_STRTAB: tables->names = at(tables->base, dynamic->d_un.d_ptr); break;
        case DT_JMPREL: tables->entries[0] = at(tables->base, dynamic->d_un.d_ptr); break;
        case DT_PLTRELSZ: tables->bytes[0] = dynamic->d_un.d_val; break;
        case DT_PLTREL: kind = (ElfW(Sxword))dynamic->d_un.d_val; break;
        case DT_RELA: tables->entries[1] = at(tables->base, dynamic->d_un.d_ptr); break;
        case DT_RELASZ: tables->bytes[1] = dynamic->d_un.d_val; break;
        default: break;
        }
    }
    if (kind != DT_RELA) {
        tables->bytes[0] = 0;
    }
    return tables->symbols != NULL && tables->names != NULL;
}

/* Writes a word of a table, also where that was made read-only once it was filled. */
static bool
point(const struct tables *tables, uintptr_t *place, uintptr_t target)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    void *const start = (void *)((uintptr_t)place & ~(page - 1));
    const uintptr_t end = (tables->readonly + tables->readonly_bytes) & ~(page - 1);
    const bool sealed = (uintptr_t)place >= tables->readonly && (uintptr_t)place < end;

    if (__atomic_load_n(place, __ATOMIC_RELAXED) == target) {
        return true;
    }
    if (sealed && mprotect(start, page, PROT_READ | PROT_WRITE) < 0) {
        return false;
    }
    __atomic_store_n(place, target, __ATOMIC_RELAXED);
    if (sealed) {
        (void)mprotect(start, page, PROT_READ);
    }
    return true;
}

static int
point_all(const struct tables *tables)
{
    int found = 0;

    for (int table = 0; table < 2; table++) {
        const ElfW(Rela) *entry = tables->entries[table];
        const size_t count = entry == NULL ? 0 : tables->bytes[table] / sizeof(*entry);
        for (size_t i = 0; i < count; i++, entry++) {
            const ElfW(Sym) *symbol = &tables->symbols[ELF64_R_SYM(entry->r_info)];
            const char *name = tables->names + symbol->st_name;
            uintptr_t target;
            if (ELF64_R_SYM(entry->r_info) == 0 || entry->r_addend != 0) {
                continue;
            }
            if (strcmp(name, "accept4") == 0) {
                target = (uintptr_t)patient_accept4;
            }
            else if (strcmp(name, "accept") == 0) {
                target = (uintptr_t)patient_accept;
            }
            else {
                continue;
            }
            found += point(tables, (uintptr_t *)(tables->base + entry->r_offset), target);
        }
    }
    return found;
}

static int
look_at(struct dl_phdr_info *object, size_t size, void *given)
{
    struct search *search = given;
    struct tables tables;

    (void)size;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];
        const uintptr_t start = object->dlpi_addr + part->p_vaddr;
        if (part->p_type == PT_LOAD && search->within >= start &&
            search->within - start < part->p_memsz) {
            search->found = read_tables(object, &tables) ? point_all(&tables) : 0;
            return 1;
        }
    }
    return 0;
}

int
zeromq_accept_patiently(const void *function)
{
    struct search search = {.within = (uintptr_t)function, .found = 0};

    if (sizeof(void *) == 8) {
        (void)dl_iterate_phdr(look_at, &search);
    }
    return search.found;
}
