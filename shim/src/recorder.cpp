// Adds up, for one thread, the time of libtorch's operators and the memory that each of them holds.

#include <ATen/record_function.h>
#include <c10/core/Allocator.h>
#include <c10/util/Flags.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

C10_DECLARE_int(caffe2_log_level);

namespace {

using Clock = std::chrono::steady_clock;

struct Row {
  uint64_t calls = 0;
  uint64_t nanoseconds = 0;
  int64_t live = 0;
  int64_t at_peak = 0;
};

struct Block {
  int64_t bytes;
  Row* row;
};

// An operator, or a node of the backward pass, at work.
struct Frame {
  Row* row;
  Row* owner;        // of what is allocated meanwhile
  std::string node;  // of the backward pass that it is part of
  Clock::duration children;
  Clock::time_point begin;
};

// Operators that make memory for the one that calls them.
bool allocates_for_another(const std::string& name) {
  for (const char* start : {"aten::empty", "aten::new_empty", "aten::zeros", "aten::resize_"}) {
    if (name.rfind(start, 0) == 0) return true;
  }
  return false;
}

class Recording : public c10::MemoryReportingInfoBase {
 public:
  int32_t stage = 0;
  std::map<std::pair<int32_t, std::string>, Row> rows;  // a row never moves

  void begin(const at::RecordFunction& function) {
    const std::string name = function.name();
    const Frame* parent = stack_.empty() ? nullptr : &stack_.back();
    const bool is_node = function.scope() == at::RecordScope::BACKWARD_FUNCTION;
    std::string node = is_node ? name : parent ? parent->node : "";
    Row* row = &rows[{stage, is_node || node.empty() ? name : node + " > " + name}];
    Row* owner = parent && allocates_for_another(name) ? parent->owner : row;
    stack_.push_back({row, owner, std::move(node), Clock::duration::zero(), Clock::now()});
  }

  void end() {
    if (stack_.empty()) return;
    const Frame& frame = stack_.back();
    const Clock::duration all = Clock::now() - frame.begin;
    frame.row->calls += 1;
    frame.row->nanoseconds += std::chrono::nanoseconds(all - frame.children).count();
    stack_.pop_back();
    if (!stack_.empty()) stack_.back().children += all;
  }

  // A negative size is one given back.
  void reportMemoryUsage(void* at, int64_t bytes, size_t, size_t, c10::Device) override;

  bool memoryProfilingEnabled() const override {
    return true;
  }

  void name(void* at, const char* owner) {
    const auto block = blocks_.find(at);
    if (block == blocks_.end()) return;
    Row* row = &rows[{-1, owner}];
    block->second.row->live -= block->second.bytes;
    row->live += block->second.bytes;
    block->second.row = row;
  }

  void reset() {
    for (auto& [key, row] : rows) row.calls = row.nanoseconds = 0;
    mark_peak();
  }

 private:
  std::vector<Frame> stack_;
  std::unordered_map<void*, Block> blocks_;
  int64_t live_ = 0;
  int64_t peak_ = 0;

  void mark_peak() {
    peak_ = live_;
    for (auto& [key, row] : rows) row.at_peak = row.live;
  }

  void take(void* at, int64_t bytes) {
    give_back(at);
    Row* row = stack_.empty() ? &rows[{stage, ""}] : stack_.back().owner;
    blocks_[at] = {bytes, row};
    row->live += bytes;
    live_ += bytes;
    if (live_ > peak_) mark_peak();
  }

  void give_back(void* at) {
    const auto block = blocks_.find(at);
    if (block == blocks_.end()) return;
    live_ -= block->second.bytes;
    block->second.row->live -= block->second.bytes;
    blocks_.erase(block);
  }
};

thread_local std::shared_ptr<Recording> current;
thread_local at::CallbackHandle handle;
thread_local int log_level;

void Recording::reportMemoryUsage(void* at, int64_t bytes, size_t, size_t, c10::Device) {
  // libtorch hands the recording on to threads that it starts.
  if (current.get() != this) return;
  if (bytes > 0) {
    take(at, bytes);
  } else {
    give_back(at);
  }
}

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& function) {
  if (current) current->begin(function);
  return nullptr;
}

void end(const at::RecordFunction&, at::ObserverContext*) {
  if (current) current->end();
}

}  // namespace

extern "C" {

// False if the thread is being recorded already.
bool diptych_recorder_start() {
  if (current) return false;
  current = std::make_shared<Recording>();
  at::RecordFunctionCallback callback(begin, end);
  callback.scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION});
  handle = at::addThreadLocalCallback(callback);
  c10::ThreadLocalDebugInfo::_push(c10::DebugInfoKind::PROFILER_STATE, current);
  // libtorch warns of memory given back that it did not see taken.
  log_level = std::exchange(FLAGS_caffe2_log_level, std::max(FLAGS_caffe2_log_level, 2));
  return true;
}

void diptych_recorder_stop() {
  FLAGS_caffe2_log_level = log_level;
  c10::ThreadLocalDebugInfo::_pop(c10::DebugInfoKind::PROFILER_STATE);
  at::removeCallback(handle);
  current.reset();
}

void diptych_recorder_stage(int32_t stage) {
  current->stage = stage;
}

void diptych_recorder_name(uintptr_t address, const char* owner) {
  current->name(reinterpret_cast<void*>(address), owner);
}

void diptych_recorder_reset() {
  current->reset();
}

void diptych_recorder_read(
    void (*row)(void*, int32_t, const char*, uint64_t, uint64_t, uint64_t),
    void* context) {
  for (const auto& [key, value] : current->rows) {
    row(context, key.first, key.second.c_str(), value.calls, value.nanoseconds, value.at_peak);
  }
}
}
