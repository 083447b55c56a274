// Runs the blocks of a launch one after another, each CUDA thread of a block as a fiber; and, in the flavour that checks,
// answers for every load and store what the compiler's thread sanitizer would ask of its own runtime.
//
// A fiber runs until it waits: at a barrier, or for lanes of its warp. Which of those that can go on does is the order:
// ascending, descending or random. That a result is right in all of them says little of finer interleavings; for these
// the checker remembers, of every byte, who wrote and read it last and between which barriers.

#include "shim/cudaemu.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <link.h>
#include <random>
#include <sys/mman.h>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace cudaemu {

// ---- findings

enum Kind {
    RACE, OUT_OF_BOUNDS, MISALIGNED, UNINITIALISED, CONST_WRITE, DIVERGENT_BARRIER, MISSING_BARRIER, DEADLOCK,
    ASYNC_READ, UNWRITTEN, TRAP, CROSS_BLOCK_RACE, ENDLESS
};

struct Access {
    uint64_t pc;
    uint32_t thread[3], block[3];
    int32_t write;
};

struct Finding {
    int32_t kind, region;
    int64_t byte;
    uint32_t size;
    Access now, before;
    char text[80];
};

// ---- memory that a kernel may touch

enum Role { SHARED, READ_ONLY, READ_WRITE, OUTPUT };

// Who accessed a byte: the thread's number in the grid plus 1 (0: nobody), its block's interval between barriers, its
// warp's, and where.
struct Mark {
    uint32_t who = 0, interval = 0, warp_interval = 0;
    uint32_t pc = 0;
    bool atomic = false;
};

struct Shadow {
    Mark writer, reader, other_reader;
    bool written = false, in_flight = false;
};

struct Region {
    char* base;
    uint64_t size;
    int role, number;
    std::vector<Shadow> shadow;
};

constexpr uint64_t GUARD = 4096;

// ---- fibers

enum State { READY, AT_BARRIER, AT_WARP, DONE };

struct Copy {
    char* to;
    const char* from;
    unsigned size, zeros;
    uint32_t pc;
};

struct Fiber : Thread {
    void* stack_pointer;
    char* stack;
    int state;
    unsigned mask;
    const void* site;
    // The matrix that it gives to its warp, 0 where lanes meet for something else.
    uint64_t matrix;
    int memory;
    int predicate;
    uint32_t interval, warp_interval;
    unsigned number;
    std::vector<std::vector<Copy>> groups;
};

constexpr size_t STACK = 64 * 1024;

extern "C" {
Thread* cudaemu_current;
dim3 cudaemu_block_dim, cudaemu_grid_dim;
}

static std::vector<Fiber> fibers;
static void* scheduler_stack;
static void (*entry)(void**);
static void** arguments;
static char* stacks;
static size_t stacks_size;
static std::vector<Region> regions;
static std::vector<Finding> findings;
static bool aborted, checking;
static uint64_t load_base, block_number;
static char *shared_base;
static size_t shared_size;
static int barrier_result;
static uint64_t accesses;
static double seconds = 300;
static std::chrono::steady_clock::time_point started;
// Of the array whose size a launch gives, what this launch may not touch.
static char *forbidden_begin, *forbidden_end;

static Fiber* me() { return static_cast<Fiber*>(cudaemu_current); }

extern "C" void cudaemu_switch(void** save, void* load);
asm(R"(
.text
.type cudaemu_switch, @function
cudaemu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cudaemu_switch, .-cudaemu_switch
)");

static void yield() { cudaemu_switch(&me()->stack_pointer, scheduler_stack); }

static void fiber_main() {
    entry(arguments);
    me()->state = DONE;
    yield();
    abort();
}

static void prepare(Fiber& f) {
    // As if it had called cudaemu_switch: six registers, then where to return to, on a stack as the ABI wants it.
    void** top = reinterpret_cast<void**>(f.stack + STACK - 64);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&fiber_main);
    for (int k = 0; k < 6; k++) *--top = nullptr;
    f.stack_pointer = top;
}

// ---- what was found

static uint64_t offset_of(const void* pc) { return reinterpret_cast<uint64_t>(pc) - load_base; }

static Access access_of(const Fiber* f, uint64_t pc, bool write) {
    Access a{pc, {f->thread.x, f->thread.y, f->thread.z}, {f->block.x, f->block.y, f->block.z}, write};
    return a;
}

static Access access_of(const Mark& m, bool write) {
    Access a{m.pc, {0, 0, 0}, {0, 0, 0}, write};
    uint64_t threads = uint64_t(cudaemu_block_dim.x) * cudaemu_block_dim.y * cudaemu_block_dim.z;
    uint64_t who = m.who - 1, t = who % threads, b = who / threads;
    a.thread[0] = t % cudaemu_block_dim.x;
    a.thread[1] = t / cudaemu_block_dim.x % cudaemu_block_dim.y;
    a.thread[2] = t / cudaemu_block_dim.x / cudaemu_block_dim.y;
    a.block[0] = b % cudaemu_grid_dim.x;
    a.block[1] = b / cudaemu_grid_dim.x % cudaemu_grid_dim.y;
    a.block[2] = b / cudaemu_grid_dim.x / cudaemu_grid_dim.y;
    return a;
}

static Finding* found(int kind, int region, int64_t byte, unsigned size, Access now, Access before, const char* text) {
    // One of each place is enough.
    for (auto& f : findings)
        if (f.kind == kind && f.now.pc == now.pc && f.before.pc == before.pc) return nullptr;
    if (findings.size() >= 200) return nullptr;
    Finding f{kind, region, byte, size, now, before, {}};
    snprintf(f.text, sizeof f.text, "%s", text);
    findings.push_back(f);
    return &findings.back();
}

static void stop_here() {
    aborted = true;
    yield();
}

extern "C" void cudaemu_trap(const char* what, const void* site) {
    found(TRAP, -1, 0, 0, access_of(me(), offset_of(site), false), Access{}, what);
    stop_here();
}

// ---- barriers and warps

extern "C" int cudaemu_barrier_count(const void* site, int predicate) {
    Fiber* f = me();
    f->site = site;
    f->predicate = predicate != 0;
    f->state = AT_BARRIER;
    yield();
    return barrier_result;
}

extern "C" void cudaemu_barrier(const void* site) { cudaemu_barrier_count(site, 0); }

extern "C" void cudaemu_warp_arrive(unsigned mask, const void* site, int memory) {
    Fiber* f = me();
    if (!(mask >> f->lane & 1)) cudaemu_trap("the calling lane is not in its own mask", site);
    f->site = site;
    f->mask = mask;
    f->memory = memory;
    f->state = AT_WARP;
    yield();
}

extern "C" uint64_t cudaemu_slot_of(unsigned lane) {
    size_t number = me()->number / 32 * 32 + lane;
    return number < fibers.size() ? fibers[number].slot : 0;
}

extern "C" unsigned cudaemu_live_lanes() {
    unsigned found_lanes = 0;
    size_t first = me()->number / 32 * 32;
    for (unsigned lane = 0; lane < 32 && first + lane < fibers.size(); lane++)
        if (fibers[first + lane].state != DONE) found_lanes |= 1u << lane;
    return found_lanes;
}

extern "C" void cudaemu_fence() {}

static bool release_warps() {
    bool any = false;
    for (size_t first = 0; first < fibers.size(); first += 32) {
        size_t count = std::min<size_t>(32, fibers.size() - first);
        for (size_t lane = 0; lane < count; lane++) {
            Fiber& f = fibers[first + lane];
            if (f.state != AT_WARP) continue;
            // All lanes of the mask that there are have come, with this mask, to this place.
            bool all = true;
            for (size_t k = 0; k < 32 && all; k++)
                if (f.mask >> k & 1) {
                    if (k >= count) { all = f.mask == 0xffffffffu; continue; }
                    const Fiber& other = fibers[first + k];
                    all = other.state == AT_WARP && other.mask == f.mask && other.site == f.site;
                }
            if (!all) continue;
            uint32_t latest = 0;
            for (size_t k = 0; k < count; k++)
                if (f.mask >> k & 1) latest = std::max(latest, fibers[first + k].warp_interval);
            unsigned mask = f.mask;
            for (size_t k = 0; k < count; k++)
                if (mask >> k & 1) {
                    const Fiber& other = fibers[first + k];
                    if (checking && other.matrix != f.matrix) {
                        found(TRAP, -1, 0, 0, access_of(&f, offset_of(f.site), false),
                              access_of(&other, offset_of(other.site), false), "lanes give different matrices to one warp");
                        aborted = true;
                    }
                    fibers[first + k].state = READY;
                    if (fibers[first + k].memory) fibers[first + k].warp_interval = latest + 1;
                }
            any = true;
        }
    }
    return any;
}

static bool release_barrier() {
    const Fiber *first = nullptr, *gone = nullptr;
    int count = 0;
    for (const Fiber& f : fibers) {
        if (f.state == DONE) { gone = &f; continue; }
        if (f.state != AT_BARRIER) return false;
        if (checking && first && f.site != first->site)
            found(DIVERGENT_BARRIER, -1, 0, 0, access_of(&f, offset_of(f.site), false),
                  access_of(first, offset_of(first->site), false), "threads of one block wait at different barriers");
        if (!first) first = &f;
        count += f.predicate;
    }
    if (!first) return false;
    if (checking && gone)
        found(MISSING_BARRIER, -1, 0, 0, access_of(first, offset_of(first->site), false), access_of(gone, 0, false),
              "a thread returned without coming to this barrier");
    barrier_result = count;
    for (Fiber& f : fibers)
        if (f.state == AT_BARRIER) {
            f.state = READY;
            f.interval++;
        }
    return true;
}

static void deadlock() {
    const Fiber *a = nullptr, *b = nullptr;
    for (const Fiber& f : fibers) {
        if (f.state == DONE) continue;
        if (!a) a = &f;
        else if (!b && (f.site != a->site || f.state != a->state)) b = &f;
    }
    found(DEADLOCK, -1, 0, 0, access_of(a, offset_of(a->site), false),
          b ? access_of(b, offset_of(b->site), false) : Access{},
          a->state == AT_WARP ? "lanes wait for others of their warp that do not come" : "threads wait for each other");
    aborted = true;
}

// ---- cp.async: the bytes are there once they have been waited for

static Region* region_of(const char* address, uint64_t size);
static void look(const void* address, unsigned size, bool write, bool atomic, const void* pc);

extern "C" void cudaemu_async_copy(void* to, const void* from, unsigned size, unsigned zeros, const void* site) {
    Fiber* f = me();
    if (size != 4 && size != 8 && size != 16) cudaemu_trap("cp.async needs 4, 8 or 16 bytes", site);
    if (zeros > size) cudaemu_trap("cp.async is to fill more with zeros than it copies", site);
    if (reinterpret_cast<uint64_t>(to) % size || (zeros < size && reinterpret_cast<uint64_t>(from) % size)) {
        found(MISALIGNED, -1, 0, size, access_of(f, offset_of(site), true), Access{}, "cp.async to or from an address that is not a multiple of its size");
        stop_here();
    }
    if (checking) {
        if (zeros < size) look(from, size - zeros, false, false, site);
        look(to, size, true, false, site);
        if (Region* r = region_of(static_cast<char*>(to), size))
            for (unsigned k = 0; k < size; k++) r->shadow[static_cast<char*>(to) + k - r->base].in_flight = true;
    }
    if (f->groups.empty()) f->groups.emplace_back();
    f->groups.back().push_back({static_cast<char*>(to), static_cast<const char*>(from), size, zeros, uint32_t(offset_of(site))});
}

extern "C" void cudaemu_async_commit() { me()->groups.emplace_back(); }

extern "C" void cudaemu_async_wait(unsigned left) {
    Fiber* f = me();
    // The last list holds what has not been committed.
    while (f->groups.size() > size_t(left) + 1) {
        for (const Copy& c : f->groups.front()) {
            std::memcpy(c.to, c.from, c.size - c.zeros);
            std::memset(c.to + c.size - c.zeros, 0, c.zeros);
            if (!checking) continue;
            if (Region* r = region_of(c.to, c.size))
                for (unsigned k = 0; k < c.size; k++) {
                    Shadow& s = r->shadow[c.to + k - r->base];
                    s.in_flight = false;
                    // From here on it is this thread's write, in this interval.
                    s.writer = {f->number + 1 + uint32_t(block_number * fibers.size()), f->interval, f->warp_interval, c.pc, false};
                }
        }
        f->groups.erase(f->groups.begin());
    }
}

// ---- how warps touch memory: sectors of 32 bytes in global memory, passes over the 32 banks in shared

// One instruction of one warp: what its lanes asked for.
struct Visit {
    uint64_t address[32];
    uint32_t mask = 0, pc = 0;
    uint8_t size = 0, write = 0, shared = 0;
};

struct Line {
    uint64_t pc, warps, bytes, sectors, least_sectors, passes, least_passes;
    uint32_t write, shared;
};

static bool counting;
static std::unordered_map<uint64_t, Visit> visits;
static std::unordered_map<uint64_t, uint32_t> times;
static std::vector<Line> lines;
static std::unordered_set<uint64_t> of_block, of_launch;
static uint64_t moved_sectors;

static void count(const Fiber* f, const char* address, unsigned size, bool write, bool shared, uint32_t pc) {
    // The nth time that a lane comes to an instruction is the nth time of its warp.
    uint32_t nth = times[uint64_t(pc) << 32 | f->number << 1 | write]++;
    Visit& v = visits[(uint64_t(pc) * 0x9e3779b97f4a7c15u) ^ (uint64_t(nth) << 20) ^ (uint64_t(f->warp) << 2) ^ uint64_t(write)];
    v.address[f->lane] = reinterpret_cast<uint64_t>(address);
    v.mask |= 1u << f->lane;
    v.pc = pc;
    v.size = size;
    v.write = write;
    v.shared = shared;
}

// How often the banks must be gone over: 4 bytes of a bank at a time, the same word for all that want it. Of 8 and 16
// bytes a half or a quarter of the warp goes at a time.
static unsigned passes_of(const Visit& v) {
    unsigned each = v.size == 16 ? 8 : v.size == 8 ? 16 : 32, total = 0;
    for (unsigned first = 0; first < 32; first += each) {
        uint64_t words[32][32];
        unsigned many[32] = {}, most = 0;
        for (unsigned lane = first; lane < first + each; lane++) {
            if (!(v.mask >> lane & 1)) continue;
            for (unsigned k = 0; k < std::max(1u, v.size / 4u); k++) {
                uint64_t word = v.address[lane] / 4 + k;
                unsigned bank = word % 32;
                bool known = false;
                for (unsigned w = 0; w < many[bank]; w++) known |= words[bank][w] == word;
                if (!known && many[bank] < 32) words[bank][many[bank]++] = word;
                most = std::max(most, many[bank]);
            }
        }
        total += most;
    }
    return total;
}

static void finish_block() {
    for (const auto& [key, v] : visits) {
        Line* line = nullptr;
        for (Line& one : lines)
            if (one.pc == v.pc && one.write == v.write) line = &one;
        if (!line) lines.push_back({v.pc, 0, 0, 0, 0, 0, 0, v.write, v.shared}), line = &lines.back();
        unsigned active = __builtin_popcount(v.mask);
        line->warps++;
        line->bytes += uint64_t(active) * v.size;
        if (v.shared) {
            line->passes += passes_of(v);
            unsigned each = v.size == 16 ? 8 : v.size == 8 ? 16 : 32;
            for (unsigned first = 0; first < 32; first += each)
                line->least_passes += (v.mask >> first & (each == 32 ? 0xffffffffu : (1u << each) - 1)) != 0;
            continue;
        }
        std::unordered_set<uint64_t> sectors, bytes;
        for (unsigned lane = 0; lane < 32; lane++)
            if (v.mask >> lane & 1) {
                bytes.insert(v.address[lane]);
                for (uint64_t a = v.address[lane] / 32; a <= (v.address[lane] + v.size - 1) / 32; a++) sectors.insert(a), of_block.insert(a << 1 | v.write);
            }
        line->sectors += sectors.size();
        line->least_sectors += (bytes.size() * v.size + 31) / 32;
    }
    moved_sectors += of_block.size();
    of_launch.insert(of_block.begin(), of_block.end());
    of_block.clear();
    visits.clear();
    times.clear();
}

// ---- the checker

static Region* region_of(const char* address, uint64_t size) {
    for (Region& r : regions)
        if (address >= r.base && address + size <= r.base + r.size) return &r;
    return nullptr;
}

// Whether what `m` did happened before what `f` does now.
static bool ordered(const Mark& m, const Fiber* f, uint32_t who) {
    if (m.who == 0 || m.who == who) return true;
    uint64_t threads = fibers.size();
    if ((m.who - 1) / threads != block_number) return false;
    if (m.interval < f->interval) return true;
    return (m.who - 1) % threads / 32 == f->number / 32 && m.warp_interval < f->warp_interval;
}

static void look(const void* where, unsigned size, bool write, bool atomic, const void* pc) {
    const char* address = static_cast<const char*>(where);
    if (address >= stacks && address < stacks + stacks_size) return;
    Fiber* f = me();
    if (!f) return;
    uint64_t at = offset_of(pc);
    // Now and then a look at the clock: a loop that waits for another block's value looks at memory forever.
    if (++accesses % 65536 == 0 &&
        std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count() > seconds) {
        found(ENDLESS, -1, 0, size, access_of(f, at, write), Access{}, "the launch is over its time");
        stop_here();
    }
    Region* r = region_of(address, size);
    if (r && address + size > forbidden_begin && address < forbidden_end) {
        found(OUT_OF_BOUNDS, r->number, address - r->base, size, access_of(f, at, write), Access{},
              "beyond the dynamic shared memory of the launch");
        stop_here();
    }
    if (!r) {
        // What is no memory of the launch at all belongs to the program: constants, tables.
        Region* near = nullptr;
        for (Region& one : regions)
            if (one.role != SHARED && address + size > one.base - GUARD && address < one.base + one.size + GUARD) near = &one;
        if (!near && shared_base && address + size > shared_base - 64 && address < shared_base + shared_size + 64)
            near = &regions[0];
        bool constant = !near && !write && address >= reinterpret_cast<char*>(load_base) &&
                        address < reinterpret_cast<char*>(load_base) + (1 << 26);
        if (constant) return;
        found(OUT_OF_BOUNDS, near ? near->number : -1, near ? address - near->base : 0, size, access_of(f, at, write),
              Access{}, write ? "written" : "read");
        stop_here();
        return;
    }
    if (counting) count(f, address, size, write, r->role == SHARED, uint32_t(at));
    uint32_t who = f->number + 1 + uint32_t(block_number * fibers.size());
    if (write && r->role == READ_ONLY)
        found(CONST_WRITE, r->number, address - r->base, size, access_of(f, at, true), Access{}, "");
    for (unsigned k = 0; k < size; k++) {
        Shadow& s = r->shadow[address + k - r->base];
        if (s.in_flight)
            found(ASYNC_READ, r->number, address + k - r->base, size, access_of(f, at, write), access_of(s.writer, true),
                  "before the wait for its cp.async");
        if (!write && !s.written)
            found(UNINITIALISED, r->number, address + k - r->base, size, access_of(f, at, false), Access{}, "");
        auto conflict = [&](const Mark& m, bool was_write) {
            if (ordered(m, f, who) || (atomic && m.atomic)) return;
            bool blocks = (m.who - 1) / fibers.size() != block_number;
            found(blocks ? CROSS_BLOCK_RACE : RACE, r->number, address + k - r->base, size, access_of(f, at, write),
                  access_of(m, was_write), "");
        };
        conflict(s.writer, true);
        Mark mine{who, f->interval, f->warp_interval, uint32_t(at), atomic};
        if (write) {
            conflict(s.reader, false);
            conflict(s.other_reader, false);
            s.writer = mine;
            s.written = true;
        } else {
            if (s.reader.who != who) s.other_reader = s.reader;
            s.reader = mine;
        }
    }
}

extern "C" void cudaemu_atomic(const void* address, unsigned size, const void* site) {
    if (reinterpret_cast<uint64_t>(address) % size) {
        found(MISALIGNED, -1, 0, size, access_of(me(), offset_of(site), true), Access{}, "atomic");
        stop_here();
    }
    if (checking) {
        // Reads what was there, which must have been something.
        if (Region* r = region_of(static_cast<const char*>(address), size))
            if (!r->shadow[static_cast<const char*>(address) - r->base].written)
                found(UNINITIALISED, r->number, static_cast<const char*>(address) - r->base, size,
                      access_of(me(), offset_of(site), false), Access{}, "atomic");
        look(address, size, true, true, site);
    }
}

// The compiler asks for an "unaligned" access where it can see that the address is not what the type promises: it can of
// shared arrays, whose address it knows. Elsewhere it means a copy of bytes.
static void look_typed(const void* p, unsigned size, bool write, bool promised, const void* pc) {
    if (reinterpret_cast<uint64_t>(p) % size && me()) {
        Region* r = region_of(static_cast<const char*>(p), 1);
        if (r && (promised || r->role == SHARED)) {
            found(MISALIGNED, r->number, static_cast<const char*>(p) - r->base, size,
                  access_of(me(), offset_of(pc), write), Access{}, "");
            stop_here();
        }
    }
    look(p, size, write, false, pc);
}

#define CUDAEMU_HOOK(size)                                                                                          \
    extern "C" void __tsan_read##size(void* p) { look_typed(p, size, false, true, CUDAEMU_SITE); }                  \
    extern "C" void __tsan_write##size(void* p) { look_typed(p, size, true, true, CUDAEMU_SITE); }                  \
    extern "C" void __tsan_unaligned_read##size(void* p) { look_typed(p, size, false, false, CUDAEMU_SITE); }       \
    extern "C" void __tsan_unaligned_write##size(void* p) { look_typed(p, size, true, false, CUDAEMU_SITE); }       \
    extern "C" void __tsan_volatile_read##size(void* p) { look(p, size, false, true, CUDAEMU_SITE); }               \
    extern "C" void __tsan_volatile_write##size(void* p) { look(p, size, true, true, CUDAEMU_SITE); }
CUDAEMU_HOOK(1)
CUDAEMU_HOOK(2)
CUDAEMU_HOOK(4)
CUDAEMU_HOOK(8)
CUDAEMU_HOOK(16)
extern "C" void __tsan_read_range(void* p, unsigned long n) { look(p, unsigned(n), false, false, __builtin_return_address(0)); }
extern "C" void __tsan_write_range(void* p, unsigned long n) { look(p, unsigned(n), true, false, __builtin_return_address(0)); }
extern "C" void __tsan_vptr_update(void*, void*) {}
extern "C" void __tsan_vptr_read(void*) {}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}

// ---- matrix products of a warp (shim/mma.h)

// For each warp two operands as lanes have brought them.
static float rooms[32][512];

extern "C" float* cudaemu_matrix_room() { return rooms[me()->warp]; }

extern "C" void cudaemu_whole_warp(const void* address, unsigned distance, const void* site) {
    if (cudaemu_live_lanes() != 0xffffffffu) cudaemu_trap("a matrix needs all 32 lanes of a warp", site);
    me()->matrix = reinterpret_cast<uint64_t>(address) ^ uint64_t(distance) << 48;
    cudaemu_warp_arrive(0xffffffffu, site, 0);
    me()->matrix = 0;
}

extern "C" void cudaemu_matrix_address(const void* address, unsigned line_bytes, bool write, const void* site) {
    if (reinterpret_cast<uint64_t>(address) % 32 == 0 && line_bytes % 16 == 0) return;
    Region* r = region_of(static_cast<const char*>(address), 1);
    found(MISALIGNED, r ? r->number : -1, r ? static_cast<const char*>(address) - r->base : 0, 32,
          access_of(me(), offset_of(site), write), Access{},
          line_bytes % 16 ? "lines of a matrix are multiples of 16 bytes apart" : "a matrix begins at multiples of 32 bytes");
    stop_here();
}

extern "C" void cudaemu_matrix_piece(const void* address, bool write, const void* site) {
    look(address, 16, write, false, site);
}

struct SourceLocation { const char* file; uint32_t line, column; };
struct TypeMismatch { SourceLocation where; void* type; unsigned char log_alignment, kind; };

static void misaligned(TypeMismatch* data, uint64_t pointer, const void* pc) {
    uint64_t alignment = uint64_t(1) << data->log_alignment;
    if (pointer % alignment == 0) return;
    char text[80];
    snprintf(text, sizeof text, "address %% %llu is %llu", (unsigned long long)alignment, (unsigned long long)(pointer % alignment));
    int number = -1;
    int64_t byte = 0;
    if (Region* r = region_of(reinterpret_cast<char*>(pointer), 1)) number = r->number, byte = reinterpret_cast<char*>(pointer) - r->base;
    found(MISALIGNED, number, byte, unsigned(alignment), access_of(me(), offset_of(pc), data->kind == 1), Access{}, text);
    stop_here();
}
extern "C" void __ubsan_handle_type_mismatch_v1(TypeMismatch* d, uint64_t p) { misaligned(d, p, __builtin_return_address(0)); }
extern "C" void __ubsan_handle_type_mismatch_v1_abort(TypeMismatch* d, uint64_t p) { misaligned(d, p, __builtin_return_address(0)); }

// ---- launches

static int find_shared(struct dl_phdr_info* info, size_t, void*) {
    // The module whose code this is: its thread-local segment is the shared memory of its kernels.
    uint64_t here = reinterpret_cast<uint64_t>(&find_shared);
    bool mine = false;
    size_t size = 0;
    for (int k = 0; k < info->dlpi_phnum; k++) {
        const auto& h = info->dlpi_phdr[k];
        if (h.p_type == PT_LOAD && here >= info->dlpi_addr + h.p_vaddr && here < info->dlpi_addr + h.p_vaddr + h.p_memsz) mine = true;
        if (h.p_type == PT_TLS) size = h.p_memsz;
    }
    if (!mine) return 0;
    load_base = info->dlpi_addr;
    shared_base = size ? static_cast<char*>(info->dlpi_tls_data) : nullptr;
    shared_size = size;
    return 1;
}

static void poison(char* base, size_t size) {
    // A signalling pattern that is NaN as float and as double, and no index.
    for (size_t k = 0; k + 4 <= size; k += 4) {
        uint32_t nan = 0x7ff7dead;
        std::memcpy(base + k, &nan, 4);
    }
}

}  // namespace cudaemu

using namespace cudaemu;

// A thread-local variable that is touched, so that the system gives this thread the module's segment.
extern "C" void cudaemu_touch();

extern "C" void cudaemu_begin(int check) {
    regions.clear();
    findings.clear();
    cudaemu_touch();
    dl_iterate_phdr(find_shared, nullptr);
    checking = check;
    accesses = 0;
    started = std::chrono::steady_clock::now();
    Region shared{shared_base, shared_size, SHARED, 0, {}};
    if (check) shared.shadow.resize(shared_size);
    regions.push_back(std::move(shared));
}

extern "C" void cudaemu_dynamic(char* base, uint64_t allowed, uint64_t size) {
    forbidden_begin = base + allowed;
    forbidden_end = base + size;
}

extern "C" void cudaemu_region(char* base, uint64_t size, int role) {
    Region r{base, size, role, int(regions.size()), {}};
    if (checking) {
        r.shadow.resize(size);
        if (role != OUTPUT)
            for (Shadow& s : r.shadow) s.written = true;
    }
    if (role == OUTPUT) poison(base, size);
    regions.push_back(std::move(r));
}

// order: 0 ascending, 1 descending, 2 random by the seed. Returns how many findings there are.
extern "C" int cudaemu_launch(void (*kernel)(void**), void** args, const unsigned* grid, const unsigned* block, int order,
                              unsigned seed) {
    entry = kernel;
    arguments = args;
    cudaemu_grid_dim = dim3(grid[0], grid[1], grid[2]);
    cudaemu_block_dim = dim3(block[0], block[1], block[2]);
    size_t threads = size_t(block[0]) * block[1] * block[2];
    uint64_t blocks = uint64_t(grid[0]) * grid[1] * grid[2];
    if (stacks_size < threads * STACK) {
        if (stacks) munmap(stacks, stacks_size);
        stacks_size = threads * STACK;
        stacks = static_cast<char*>(mmap(nullptr, stacks_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (stacks == MAP_FAILED) { stacks = nullptr; stacks_size = 0; return -1; }
    }
    fibers.clear();
    fibers.resize(threads);
    std::mt19937_64 random(seed);
    std::vector<uint64_t> turn(blocks);
    for (uint64_t k = 0; k < blocks; k++) turn[k] = order == 1 ? blocks - 1 - k : k;
    if (order == 2) std::shuffle(turn.begin(), turn.end(), random);
    aborted = false;
    std::vector<unsigned> ready;
    for (uint64_t number : turn) {
        block_number = number;
        poison(shared_base, shared_size);
        if (checking)
            for (Shadow& s : regions[0].shadow) s = Shadow{};
        for (size_t t = 0; t < threads; t++) {
            Fiber& f = fibers[t];
            f.thread = {unsigned(t % block[0]), unsigned(t / block[0] % block[1]), unsigned(t / block[0] / block[1])};
            f.block = {unsigned(number % grid[0]), unsigned(number / grid[0] % grid[1]), unsigned(number / grid[0] / grid[1])};
            f.lane = t % 32;
            f.warp = t / 32;
            f.number = t;
            f.state = READY;
            f.interval = f.warp_interval = 1;
            f.memory = 0;
            f.matrix = 0;
            f.groups.clear();
            f.stack = stacks + t * STACK;
            prepare(f);
        }
        while (true) {
            ready.clear();
            for (unsigned t = 0; t < threads; t++)
                if (fibers[t].state == READY) ready.push_back(t);
            if (ready.empty()) {
                if (release_warps() || release_barrier()) {
                    if (aborted) break;
                    continue;
                }
                bool all_done = std::all_of(fibers.begin(), fibers.end(), [](const Fiber& f) { return f.state == DONE; });
                if (!all_done) deadlock();
                break;
            }
            if (order == 1) std::reverse(ready.begin(), ready.end());
            if (order == 2) std::shuffle(ready.begin(), ready.end(), random);
            for (unsigned t : ready) {
                cudaemu_current = &fibers[t];
                cudaemu_switch(&scheduler_stack, fibers[t].stack_pointer);
                cudaemu_current = nullptr;
                if (aborted) break;
            }
            if (aborted) break;
        }
        // Copies that nobody waited for are never there.
        if (aborted) break;
        if (counting) finish_block();
    }
    if (checking && !aborted)
        for (Region& r : regions)
            if (r.role == OUTPUT)
                for (uint64_t k = 0; k < r.size; k++)
                    if (!r.shadow[k].written) {
                        uint64_t last = k;
                        while (last + 1 < r.size && !r.shadow[last + 1].written) last++;
                        Access nobody{};
                        nobody.pc = r.number;  // one for each output
                        found(UNWRITTEN, r.number, k, unsigned(last + 1 - k), nobody, Access{}, "");
                        break;
                    }
    return int(findings.size());
}

extern "C" void cudaemu_limit(double most) { seconds = most; }
extern "C" void cudaemu_counting(int on) {
    counting = on;
    visits.clear();
    times.clear();
    lines.clear();
    of_block.clear();
    of_launch.clear();
    moved_sectors = 0;
}
extern "C" unsigned cudaemu_line_count() { return unsigned(lines.size()); }
extern "C" unsigned cudaemu_line_size() { return sizeof(Line); }
extern "C" const void* cudaemu_lines() { return lines.data(); }
extern "C" uint64_t cudaemu_moved() { return moved_sectors; }
extern "C" uint64_t cudaemu_compulsory() { return of_launch.size(); }
extern "C" uint64_t cudaemu_accesses() { return accesses; }
extern "C" const void* cudaemu_findings() { return findings.data(); }
extern "C" unsigned cudaemu_finding_size() { return sizeof(Finding); }
