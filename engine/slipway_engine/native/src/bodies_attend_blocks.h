// Where the blocks of a split of keys are, and asking for the next ones early: they lie apart, so that the processor
// cannot foresee them. What is wanted next comes in while as much is computed; asked for at once, it would be dropped.
#pragma once

namespace {

constexpr int kSplitBlocks = kSplit / kBlock;

struct Split {
  const uint8_t* keys[kSplitBlocks];
  const uint8_t* values[kSplitBlocks];
  int64_t start;   // position of its first key
  int from, to;    // its keys that some query of the tile sees, counted from `start`
  int first, end;  // the blocks that hold them
};

Split locate(const Attend& a, int64_t split) {
  const int64_t last = a.position + a.tokens - 1;
  const int64_t oldest = a.window && a.position >= a.window ? a.position - a.window + 1 : 0;
  Split s;
  s.start = split * kSplit;
  s.to = (int)(last + 1 - s.start < kSplit ? last + 1 - s.start : kSplit);
  s.from = (int)(oldest > s.start ? oldest - s.start : 0);
  s.first = s.end = 0;
  if (s.from >= s.to) return s;
  s.first = s.from / kBlock;
  s.end = (s.to + kBlock - 1) / kBlock;
  for (int block = s.first; block < s.end; block++) {
    const int64_t place = a.blocks[s.start / kBlock + block] * a.block_bytes;
    s.keys[block] = a.keys + place;
    s.values[block] = a.values + place;
  }
  return s;
}

// The split after `split` that this thread reads, or one without blocks.
Split after(const Attend& a, int64_t split) {
  if (split + 1 < a.split_end) return locate(a, split + 1);
  if (a.next) return locate(*a.next, a.next->split);
  Split none;
  none.first = none.end = 0;
  return none;
}

// What to ask for while each block of `here` is read: the block of `next` in its place; else nothing new.
void pair_up(const Split& here, const uint8_t* const* read, const Split& next, const uint8_t* const* wanted,
             const uint8_t** ahead) {
  for (int block = here.first; block < here.end; block++)
    ahead[block] = block >= next.first && block < next.end ? wanted[block] : read[block];
}

void ask_for(const uint8_t* p) { __builtin_prefetch(p, 0, 3); }

}  // namespace
