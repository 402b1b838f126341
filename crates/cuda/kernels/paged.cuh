// Where keys and values lie in a page of PAGE positions of one head of d features.
#pragma once
#include "mma.cuh"

constexpr int PAGE = 64;

// Keys lie as rows. Of values two adjacent positions share a word, which is how products over positions take them.
__device__ inline int key_at(int slot, int i, int d) { return slot * d + i; }
__device__ inline int value_at(int slot, int i, int d) { return (slot / 2 * d + i) * 2 + slot % 2; }
