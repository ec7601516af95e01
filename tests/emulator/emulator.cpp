// Fibers, barriers, and the checks of memory accesses. See emulator.h.
#include "emulator.h"

#include <link.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <vector>

namespace emulator {
namespace {

constexpr unsigned WARP = 32;
constexpr size_t STACK_BYTES = 64 << 10;

struct Range {
    uintptr_t begin = 0, end = 0;
    bool holds(uintptr_t address, size_t bytes = 1) const { return address >= begin && address + bytes <= end; }
};

// Who touched memory, and how many barriers had passed by then.
struct Touch {
    uint32_t block = 0;  // 1-based; 0: nobody
    uint32_t epoch = 0, warp_epoch = 0;
    uint16_t thread = 0;
    enum Who : uint8_t { ONE, WARP_MATES, MANY, BLOCKS } who = ONE;
};

// The last write, and the reads since.
struct Touches {
    Touch write, read;
};

// Of a word of 4 bytes; of each byte, once a part of it was touched by itself.
struct Word {
    Touches all;
    uint32_t bytes;  // 1 + the index among the shadow's bytes; 0: it is whole
};

struct Copy {
    void* to;
    const void* from;
    unsigned bytes, valid;
};

struct Fiber {
    Index index;
    ucontext_t context;
    jmp_buf registers;
    bool started = false, done = false;
    const char* waits_at = "";
    std::vector<Copy> open;
    std::deque<std::vector<Copy>> committed;
};

struct Warp {
    unsigned alive, arrived = 0, generation = 0, epoch = 0;
    const char* name = "";
    void (*perform)(void* const*) = nullptr;
    void* lanes[WARP];
};

struct Free {
    void operator()(Word* p) const { free(p); }
};

struct Shadow {
    static constexpr uintptr_t WORD = 4;

    Range range;
    std::unique_ptr<Word, Free> words;  // made at the first access
    std::vector<std::array<Touches, WORD>> bytes;

    Word& at(uintptr_t address) {
        const uintptr_t first = range.begin / WORD;
        if (!words) words.reset(static_cast<Word*>(calloc(range.end / WORD + 1 - first, sizeof(Word))));
        return words.get()[address / WORD - first];
    }
    // Those of one byte.
    Touches& byte_at(uintptr_t address) {
        Word& word = at(address);
        if (!word.bytes) {
            bytes.push_back({word.all, word.all, word.all, word.all});
            word.bytes = bytes.size();
        }
        return bytes[word.bytes - 1][address % WORD];
    }
    void clear() { words.reset(), bytes.clear(); }
};

struct Machine {
    explicit Machine(const Launch& launch, void (*kernel)(const void*)) : launch(launch), kernel(kernel) {}
    const Launch& launch;
    void (*kernel)(const void*);
    jmp_buf scheduler;
    Index block{};
    uint32_t block_number = 0;
    unsigned current = 0, alive = 0, arrived = 0, epoch = 0, progress = 0;
    bool failed = false;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<Shadow> buffers;
    Shadow* last_buffer = nullptr;
    Shadow static_shared, shared;
    Range stacks, params;
    std::vector<Range> image;  // this library's constants
};

__thread Machine* machine;
__thread char message[512];

Fiber& fiber() { return machine->fibers[machine->current]; }
Warp& warp() { return machine->warps[machine->current / WARP]; }

void yield() {
    if (!_setjmp(fiber().registers)) _longjmp(machine->scheduler, 1);
}

[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char* format, ...) {
    char what[300];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    const Index &b = machine->block, &t = fiber().index;
    snprintf(message, sizeof message, "block (%u, %u, %u), thread (%u, %u, %u): %s", b.x, b.y, b.z, t.x, t.y, t.z, what);
    machine->failed = true;
    _longjmp(machine->scheduler, 1);
}

void release_barrier() {
    machine->arrived = 0;
    machine->epoch++;
    machine->progress++;
}

void release_warp(Warp& w) {
    w.arrived = 0;
    w.generation++;
    machine->progress++;
}

void leave() {
    Machine& m = *machine;
    Warp& w = warp();
    fiber().done = true;
    fiber().open.clear();
    fiber().committed.clear();
    m.progress++;
    m.alive--;
    w.alive--;
    if (m.arrived && m.arrived == m.alive) release_barrier();
    if (w.arrived && w.perform) fail("leaves the kernel while other lanes of its warp wait at %s", w.name);
    if (w.arrived && w.arrived == w.alive) {
        w.epoch++;
        release_warp(w);
    }
    yield();
}

void fiber_main() {
    for (;;) {
        machine->kernel(machine->launch.params);
        leave();
    }
}

__attribute__((noinline)) void resume(Fiber& f) {
    if (_setjmp(machine->scheduler)) return;
    if (f.started) _longjmp(f.registers, 1);
    f.started = true;
    setcontext(&f.context);
}

// Finds this library's thread-local block (the kernels' __shared__ variables, and `machine` and `message`) and its
// loaded segments.
int find_image(dl_phdr_info* info, size_t, void*) {
    Range tls;
    std::vector<Range> image;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const auto& h = info->dlpi_phdr[i];
        if (h.p_type == PT_TLS) tls.begin = (uintptr_t)info->dlpi_tls_data, tls.end = tls.begin + h.p_memsz;
        if (h.p_type == PT_LOAD) image.push_back({info->dlpi_addr + h.p_vaddr, info->dlpi_addr + h.p_vaddr + h.p_memsz});
    }
    if (!tls.holds((uintptr_t)&machine)) return 0;
    machine->static_shared.range = tls;
    machine->image = image;
    return 1;
}

void poison_shared(Machine* m) {
    char kept[sizeof message];
    memcpy(kept, message, sizeof message);
    const Range tls = m->static_shared.range;
    memset((void*)tls.begin, 0xff, tls.end - tls.begin);
    memcpy(message, kept, sizeof message);
    machine = m;
    memset((void*)m->shared.range.begin, 0xff, m->shared.range.end - m->shared.range.begin);
    m->static_shared.clear();
    m->shared.clear();
}

void run_block(Machine& m) {
    const unsigned threads = m.fibers.size();
    poison_shared(&m);
    m.block_number++;
    m.alive = threads;
    m.arrived = m.epoch = 0;
    m.warps.assign((threads + WARP - 1) / WARP, {});
    for (unsigned i = 0; i < threads; i++) {
        m.fibers[i].done = false;
        m.warps[i / WARP].alive = min(WARP, threads - i / WARP * WARP);
    }
    while (m.alive) {
        const unsigned before = m.progress;
        for (unsigned i = 0; i < threads && !m.failed; i++) {
            m.current = i;
            if (!m.fibers[i].done) resume(m.fibers[i]);
        }
        if (m.failed) return;
        if (m.alive && before == m.progress) {
            const char *one = nullptr, *other = nullptr;
            for (const auto& f : m.fibers) {
                if (f.done) continue;
                if (!one) one = f.waits_at;
                if (strcmp(one, f.waits_at)) other = f.waits_at;
            }
            snprintf(message, sizeof message, "block (%u, %u, %u): deadlock: threads wait for each other at %s and %s",
                m.block.x, m.block.y, m.block.z, one, other ? other : "no other place");
            m.failed = true;
            return;
        }
    }
}

// Nothing can have happened between `touch` and an access by the current thread unless a barrier came between.
bool ordered(const Touch& touch, const Touch& now) {
    if (touch.block < now.block) return touch.block == 0;
    switch (touch.who) {
        case Touch::ONE:
            if (touch.thread == now.thread) return true;
            [[fallthrough]];
        case Touch::WARP_MATES:
            if (touch.thread / WARP == now.thread / WARP && touch.warp_epoch < now.warp_epoch) return true;
            [[fallthrough]];
        case Touch::MANY: return touch.epoch < now.epoch;
        default: return false;
    }
}

Touch touch_now(const Machine& m) {
    return {m.block_number, m.epoch, m.warps[m.current / WARP].epoch, (uint16_t)m.current, Touch::ONE};
}

// The readers, one more added: as much as a later write needs to know of them.
Touch with_reader(const Touch& before, Touch now) {
    if (before.block == 0 || (before.block == now.block && before.epoch < now.epoch)) return now;
    if (before.block != now.block || before.who == Touch::BLOCKS) now.who = Touch::BLOCKS;
    else if (before.who == Touch::MANY || before.thread / WARP != now.thread / WARP) now.who = Touch::MANY;
    else if (before.who == Touch::WARP_MATES || before.thread != now.thread) now.who = Touch::WARP_MATES;
    return now;
}

// Checks an access, and notes it. What comes behind a write comes behind what was read before it.
void touch(Touches& touches, const Touch& now, bool write, const Shadow& shadow, const char* space, uintptr_t address) {
    const bool written = !ordered(touches.write, now), read = write && !ordered(touches.read, now);
    if (written || read) {
        const Touch& other = written ? touches.write : touches.read;
        fail("race in %s memory: %s byte %zu, which %s %u %s with no barrier in between", space, write ? "writes" : "reads",
            (size_t)(address - shadow.range.begin), other.block == now.block ? "thread" : "another block's thread",
            (unsigned)other.thread, written ? "wrote" : "read");
    }
    if (write) touches = {now, {}};
    else touches.read = with_reader(touches.read, now);
}

// Aligned to their number, which is a power of two.
void touch_all(const Machine& m, Shadow& shadow, const char* space, uintptr_t address, size_t bytes, bool write) {
    const Touch now = touch_now(m);
    if (bytes < Shadow::WORD) {
        for (size_t i = 0; i < bytes; i++) touch(shadow.byte_at(address + i), now, write, shadow, space, address + i);
        return;
    }
    Word* word = &shadow.at(address);
    for (size_t at = 0; at < bytes; at += Shadow::WORD, word++) {
        if (word->bytes) {
            auto& parts = shadow.bytes[word->bytes - 1];
            for (size_t i = 0; i < parts.size(); i++) touch(parts[i], now, write, shadow, space, address + at + i);
        } else {
            touch(word->all, now, write, shadow, space, address + at);
        }
    }
}

Shadow* buffer_at(Machine& m, uintptr_t address) {
    if (m.last_buffer && m.last_buffer->range.holds(address)) return m.last_buffer;
    size_t low = 0, high = m.buffers.size();
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (m.buffers[middle].range.end <= address) low = middle + 1;
        else high = middle;
    }
    if (low == m.buffers.size() || !m.buffers[low].range.holds(address)) return nullptr;
    return m.last_buffer = &m.buffers[low];
}

bool writes(const std::vector<Copy>& group, const void* to, unsigned bytes) {
    const char* begin = (const char*)to;
    return std::any_of(group.begin(), group.end(), [&](const Copy& c) {
        return (const char*)c.to < begin + bytes && begin < (const char*)c.to + c.bytes;
    });
}

void perform_copies(const std::vector<Copy>& group) {
    for (const Copy& c : group) {
        access(c.to, c.bytes, true);
        memcpy(c.to, c.from, c.valid);
        memset((char*)c.to + c.valid, 0, c.bytes - c.valid);
    }
}

}  // namespace

Index thread_index() { return fiber().index; }
Index block_index() { return machine->block; }
Index block_size() { return machine->launch.block; }
Index grid_size() { return machine->launch.grid; }
void* dynamic_shared() { return (void*)machine->shared.range.begin; }

void barrier() {
    Machine& m = *machine;
    const unsigned epoch = m.epoch;
    fiber().waits_at = "__syncthreads";
    if (++m.arrived == m.alive) return release_barrier();
    while (m.epoch == epoch) yield();
}

void warp_barrier() {
    Warp& w = warp();
    if (w.arrived && w.perform) fail("lanes of one warp meet at __syncwarp and %s", w.name);
    w.perform = nullptr;
    fiber().waits_at = w.name = "__syncwarp";
    const unsigned generation = w.generation;
    if (++w.arrived == w.alive) {
        w.epoch++;
        return release_warp(w);
    }
    while (w.generation == generation) yield();
}

void collective(const char* name, void* mine, void (*perform)(void* const*)) {
    Warp& w = warp();
    if (w.alive != WARP) fail("%s in a warp of which only %u lanes are left", name, w.alive);
    if (w.arrived && w.perform != perform) fail("lanes of one warp meet at %s and %s", name, w.name);
    w.perform = perform;
    fiber().waits_at = w.name = name;
    w.lanes[machine->current % WARP] = mine;
    const unsigned generation = w.generation;
    if (++w.arrived == WARP) {
        void* lanes[WARP];  // on the stack, whose accesses need no check
        memcpy(lanes, w.lanes, sizeof lanes);
        perform(lanes);
        return release_warp(w);
    }
    while (w.generation == generation) yield();
}

void access(const void* pointer, size_t bytes, bool write) {
    Machine* m = machine;
    const uintptr_t address = (uintptr_t)pointer;
    if (!m || m->stacks.holds(address)) return;
    const char* what = write ? "write" : "read";
    Shadow* shadow = nullptr;
    const char* space = "shared";
    if (m->static_shared.range.holds(address)) shadow = &m->static_shared;
    else if (m->shared.range.holds(address)) shadow = &m->shared;
    else if ((shadow = buffer_at(*m, address))) space = "global";
    if (shadow) {
        if (!shadow->range.holds(address, bytes)) fail("%s of %zu bytes beyond the end of %s memory", what, bytes, space);
        if (address % bytes) fail("%s of %zu bytes, misaligned", what, bytes);
        return touch_all(*m, *shadow, space, address, bytes, write);
    }
    if (!write && m->params.holds(address, bytes)) return;
    for (const Range& r : m->image) {
        if (!write && r.holds(address, bytes)) return;
    }
    const Range nearest = m->last_buffer ? m->last_buffer->range : Range{};
    fail("illegal %s of %zu bytes at %#zx, in no buffer (last used: %#zx to %#zx; shared memory: %#zx to %#zx)", what, bytes,
        (size_t)address, (size_t)nearest.begin, (size_t)nearest.end, (size_t)m->shared.range.begin, (size_t)m->shared.range.end);
}

// Blocks may meet here, so it is no race; that it lies in a buffer is checked.
void atomic_min(uint64_t* at, uint64_t value) {
    const uintptr_t address = (uintptr_t)at;
    const Shadow* shadow = buffer_at(*machine, address);
    if (!shadow || !shadow->range.holds(address, sizeof value)) fail("atomic_min at %#zx, in no buffer", (size_t)address);
    uint64_t seen = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (value < seen && !__atomic_compare_exchange_n(at, &seen, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

// The copy engine reads and writes at any time between issue and wait: checked at both, performed at the last moment.
void copy_async(void* to, const void* from, unsigned bytes, unsigned valid) {
    if ((uintptr_t)to % bytes || (uintptr_t)from % bytes) fail("cp.async of %u bytes, misaligned", bytes);
    if (valid) access(from, valid & -valid, false), access((const char*)from + valid - 1, 1, false);
    access(to, bytes, true);
    // Either may land last. Those of other threads are races, which `access` finds.
    if (writes(fiber().open, to, bytes)) fail("cp.async onto bytes of another copy of its group");
    for (const auto& group : fiber().committed) {
        if (writes(group, to, bytes)) fail("cp.async onto bytes of an earlier copy that was not waited for");
    }
    fiber().open.push_back({to, from, bytes, valid});
}

void copy_commit() {
    fiber().committed.push_back(std::move(fiber().open));
    fiber().open.clear();
}

void copy_wait(unsigned groups_left) {
    auto& groups = fiber().committed;
    while (groups.size() > groups_left) {
        perform_copies(groups.front());
        groups.pop_front();
    }
}

const char* run(const Launch& launch, uint64_t params_bytes, unsigned max_threads, void (*kernel)(const void*)) {
    const Index &grid = launch.grid, &size = launch.block;
    const unsigned threads = size.x * size.y * size.z;
    if (launch.params_bytes != params_bytes) return "the parameter struct has another size than the kernel's";
    if (threads == 0 || threads > max_threads) return "more threads a block than the kernel is bounded to, or none";

    Machine m(launch, kernel);
    machine = &m;
    m.params = {(uintptr_t)launch.params, (uintptr_t)launch.params + params_bytes};
    for (uint64_t i = 0; i < launch.buffer_count; i++) {
        const Buffer& b = launch.buffers[i];
        m.buffers.emplace_back();
        m.buffers.back().range = {b.address, b.address + b.bytes};
    }
    dl_iterate_phdr(find_image, nullptr);
    std::unique_ptr<void, decltype(&free)> shared(aligned_alloc(1024, (launch.shared_bytes + 1023) / 1024 * 1024 + 1024), free);
    m.shared.range = {(uintptr_t)shared.get(), (uintptr_t)shared.get() + launch.shared_bytes};

    const size_t stack_bytes = threads * STACK_BYTES;
    void* stacks = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stacks == MAP_FAILED) return machine = nullptr, "no memory for the fibers' stacks";
    m.stacks = {(uintptr_t)stacks, (uintptr_t)stacks + stack_bytes};
    m.fibers.resize(threads);
    for (unsigned i = 0; i < threads; i++) {
        Fiber& f = m.fibers[i];
        f.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = (char*)stacks + i * STACK_BYTES;
        f.context.uc_stack.ss_size = STACK_BYTES;
        f.context.uc_link = nullptr;
        makecontext(&f.context, fiber_main, 0);
    }

    for (m.block.z = 0; m.block.z < grid.z && !m.failed; m.block.z++)
        for (m.block.y = 0; m.block.y < grid.y && !m.failed; m.block.y++)
            for (m.block.x = 0; m.block.x < grid.x && !m.failed; m.block.x++) run_block(m);

    munmap(stacks, stack_bytes);
    machine = nullptr;
    return m.failed ? message : nullptr;
}

}  // namespace emulator

// What -fsanitize=thread calls at each access.
#define HOOKS(n)                                                                              \
    extern "C" void __tsan_read##n(void* p) { emulator::access(p, n, false); }                \
    extern "C" void __tsan_write##n(void* p) { emulator::access(p, n, true); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
#define UNALIGNED_HOOKS(n)                                                                    \
    extern "C" void __tsan_unaligned_read##n(void* p) { emulator::access(p, n, false); }      \
    extern "C" void __tsan_unaligned_write##n(void* p) { emulator::access(p, n, true); }
UNALIGNED_HOOKS(2)
UNALIGNED_HOOKS(4)
UNALIGNED_HOOKS(8)
UNALIGNED_HOOKS(16)
extern "C" void __tsan_read_range(void* p, size_t n) {
    for (size_t i = 0; i < n; i++) emulator::access((char*)p + i, 1, false);
}
extern "C" void __tsan_write_range(void* p, size_t n) {
    for (size_t i = 0; i < n; i++) emulator::access((char*)p + i, 1, true);
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
