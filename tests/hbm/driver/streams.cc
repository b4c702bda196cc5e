// Streams: a thread each, which does what was put on it in order, while the others do theirs. Small pauses that follow from the
// seed, and a preference for streams of higher priority, shake the order between streams.
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "standin.h"

State& state() {
  static State& everything = *new State;
  return everything;
}

// --- memory that is not there ---

static thread_local sigjmp_buf* way_out = nullptr;
static struct sigaction before_segv, before_bus;

static void on_fault(int signal, siginfo_t* what, void* context) {
  if (way_out) siglongjmp(*way_out, 1);
  // Not ours: whoever was there before.
  const struct sigaction& before = signal == SIGSEGV ? before_segv : before_bus;
  if (before.sa_flags & SA_SIGINFO) return before.sa_sigaction(signal, what, context);
  if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) return before.sa_handler(signal);
  sigaction(signal, &before, nullptr);
}

static void watch_for_faults() {
  static const bool once = [] {
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &before_segv);
    sigaction(SIGBUS, &action, &before_bus);
    return true;
  }();
  (void)once;
}

Code guarded(const std::function<void()>& act) {
  watch_for_faults();
  sigjmp_buf here;
  if (sigsetjmp(here, 1) != 0) {
    way_out = nullptr;
    return ILLEGAL_ADDRESS;
  }
  way_out = &here;
  act();
  way_out = nullptr;
  return SUCCESS;
}

// --- what is under way ---

static bool uses(const Task& task, const Memory& memory) {
  for (const MemoryPointer& used : task.uses)
    if (used.get() == &memory) return true;
  return false;
}

static void each_task(const std::function<void(const Task&)>& look) {
  for (Context* context : state().contexts)
    for (Stream* stream : context->streams) {
      if (stream->running) look(*stream->running);
      for (const auto& task : stream->waiting) look(*task);
    }
}

void must_not_be_in_use(const char* call, const Memory& memory) {
  each_task([&](const Task& task) {
    if (uses(task, memory)) die("%s of %s while %s uses it", call, memory.words().c_str(), task.call);
  });
}

void must_not_be_in_use(const char* call, const void* module) {
  each_task([&](const Task& task) {
    if (task.module == module) die("%s of a module while %s uses it", call, task.call);
  });
}

bool is_idle(const Stream* stream) { return stream->waiting.empty() && !stream->running; }

bool is_at_rest(const Context* context) {
  for (const Stream* stream : context->streams)
    if (context->lost ? stream->active : !is_idle(stream)) return false;
  return true;
}

void wait_until(std::unique_lock<std::mutex>& lock, const std::function<bool()>& holds) {
  while (!holds()) state().changed.wait(lock);
}

void lose(Context* context, Code code) {
  if (context->lost) return;
  context->lost = code;
  // What has not begun never will.
  for (Stream* stream : context->streams) stream->waiting.clear();
  state().changed.notify_all();
}

// --- the threads ---

using Lock = std::unique_lock<std::mutex>;

static void pause(Lock& lock, long microseconds) {
  lock.unlock();
  usleep(microseconds);
  lock.lock();
}

// Lets others overtake now and then, above all those of higher priority.
static void stand_back(Lock& lock, const Stream* stream) {
  if (toss() % 8 == 0) pause(lock, toss() % 60);
  for (int turn = 0; turn < 4; turn++) {
    bool behind = false;
    for (const Stream* other : stream->context->streams)
      behind |= other->priority < stream->priority && (other->active || !other->waiting.empty());
    if (!behind || toss() % 4 == 0) return;
    pause(lock, 50);
  }
}

// Takes a byte from a gate; one that is closed is open. False: the context was lost meanwhile.
static bool pass(Lock& lock, const Stream* stream, const Task& task) {
  int gate = -1;
  for (const MemoryPointer& used : task.uses)
    if (used->gate >= 0) gate = used->gate;
  while (gate >= 0) {
    lock.unlock();
    pollfd look{gate, POLLIN, 0};
    const int ready = poll(&look, 1, 10);
    char byte;
    const bool passed = ready > 0 && (read(gate, &byte, 1) >= 0 || errno != EAGAIN);
    lock.lock();
    if (stream->context->lost) return false;
    if (passed) return true;
  }
  return true;
}

static Code do_piece(const Task& task, const std::function<Code()>& piece) {
  for (const MemoryPointer& used : task.uses)
    if (!is_whole(*used)) return ILLEGAL_ADDRESS;
  return piece();
}

static void do_task(Lock& lock, Stream* stream, const Task& task) {
  Context* context = stream->context;
  if (settings().hang_stream == stream->number && stream->begun >= settings().hang_from)
    wait_until(lock, [] { return false; });
  for (const auto& piece : task.pieces) {
    if (!pass(lock, stream, task)) return;
    stand_back(lock, stream);
    if (context->lost) return;
    bool loses = true;
    Code code = fault("work", &loses);
    stream->active = true;
    lock.unlock();
    if (code == SUCCESS) code = do_piece(task, piece);
    lock.lock();
    stream->active = false;
    if (code != SUCCESS) {
      say("%s fails: %s", task.call, name_of(code) ? name_of(code) : "?");
      return lose(context, code);
    }
    // Whoever waits for a lost context waits until nothing is active.
    if (context->lost) return state().changed.notify_all();
  }
}

static void live(Stream* stream) {
  sigset_t all;
  sigfillset(&all);
  sigdelset(&all, SIGSEGV);
  sigdelset(&all, SIGBUS);
  sigdelset(&all, SIGABRT);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  pthread_setname_np(pthread_self(), ("cuda-" + std::to_string(stream->number)).c_str());
  Lock lock(state().mutex);
  for (;;) {
    wait_until(lock, [&] { return stream->ending || !stream->waiting.empty(); });
    if (stream->waiting.empty()) break;
    stream->running = stream->waiting.front();
    stream->waiting.pop_front();
    if (!stream->running->pieces.empty()) stream->begun++;
    do_task(lock, stream, *stream->running);
    if (stream->running->point && !stream->context->lost) stream->running->point->reached = true;
    stream->running.reset();
    state().changed.notify_all();
  }
  lock.unlock();
  delete stream;
}

Stream* make_stream(Context* context, int priority) {
  auto* stream = new Stream{.context = context, .number = context->streams_made++, .priority = priority};
  context->streams.insert(stream);
  std::thread(live, stream).detach();
  return stream;
}

static bool collide(const std::vector<Range>& one, const std::vector<Range>& other) {
  for (auto a = one.begin(), b = other.begin(); a != one.end() && b != other.end();) {
    if (a->from < b->end && b->from < a->end && (a->written || b->written)) return true;
    // Ranges of one task may overlap only where both are read.
    (a->end < b->end ? a : b)++;
  }
  return false;
}

static void must_not_race(const Stream* stream, Task* task) {
  auto& ranges = task->ranges;
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.from < b.from; });
  for (const Stream* other : stream->context->streams) {
    if (other == stream) continue;
    auto look = [&](const Task& before) {
      if (collide(ranges, before.ranges))
        die("%s on stream %d touches bytes of %s on stream %d, and one of them writes", task->call, stream->number, before.call,
            other->number);
    };
    if (other->running) look(*other->running);
    for (const auto& before : other->waiting) look(*before);
  }
}

void put(Stream* stream, std::shared_ptr<Task> task) {
  if (settings().abort_on_races) must_not_race(stream, task.get());
  stream->waiting.push_back(std::move(task));
  state().changed.notify_all();
}
