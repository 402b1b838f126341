// What only Hopper (9.0a) has: products of a group of four warps with operands in shared memory, copies of tiles by the copy
// engine, and barriers that count bytes.
#pragma once
#include "barrier.cuh"
#include "mma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Barriers of threads, by number.
__device__ inline void threads_sync(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
__device__ inline void threads_arrive(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// -------------------------------------------------------------------------------------------------------------- copy engine

// A tensor of four dimensions as the copy engine knows it, made by `tensor_map.rs`.
struct alignas(128) TensorMap {
  uint64_t opaque[16];
};

// Queues a copy of the box at these indices to shared memory; its bytes arrive at the barrier.
__device__ inline void copy_box(uint32_t to, const TensorMap &map, uint32_t barrier, int c0, int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

// Queues a copy of so many bytes, a multiple of 16 at a multiple of 16, to shared memory; they arrive at the barrier.
__device__ inline void copy_bytes(uint32_t to, const void *from, int bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
               "r"(bytes), "r"(barrier)
               : "memory");
}

// ----------------------------------------------------------------------------------------------------------------- products

// An operand in shared memory: rows of 128 bytes whose pieces of 16 bytes are swizzled as the copy engine does, eight rows to
// 1024 bytes; `leading` bytes from one column of 64 elements to the next, which matters only where rows run along k.
__device__ inline uint64_t operand(uint32_t address, int leading) {
  return uint64_t((address & 0x3ffff) >> 4) | uint64_t(leading >> 4) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

__device__ inline void products_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most N committed groups are under way.
template <int N> __device__ void products_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

template <int M> __device__ __forceinline__ void keep(float (&d)[M]) {
#pragma unroll
  for (int i = 0; i < M; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// d (+)= a * b for 64 x 16 of a and 16 x N of b; adds to what is there if `add`. Of d, a warp holds 16 rows: lane l rows l / 4
// and l / 4 + 8, and of every eight columns 2 * (l % 4) + {0, 1}, in the order of `mma`, tile by tile.
// `product` takes both operands from shared memory, where k runs along their rows, or down their columns if turned;
// `product_from` takes a from registers, as `mma` does, and a turned b. `product_new` is `product` that does not add, of results
// whose registers may have held something else before: to the compiler, nothing flows from that into the product.
template <int N> struct Product;
#define RESULTS_64(C) \
  C(d[0]), C(d[1]), C(d[2]), C(d[3]), C(d[4]), C(d[5]), C(d[6]), C(d[7]), C(d[8]), \
  C(d[9]), C(d[10]), C(d[11]), C(d[12]), C(d[13]), C(d[14]), C(d[15]), C(d[16]), C(d[17]), \
  C(d[18]), C(d[19]), C(d[20]), C(d[21]), C(d[22]), C(d[23]), C(d[24]), C(d[25]), C(d[26]), \
  C(d[27]), C(d[28]), C(d[29]), C(d[30]), C(d[31])
#define NAMES_64 \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%" \
  "30,%31}"
#define RESULTS_80(C) \
  C(d[0]), C(d[1]), C(d[2]), C(d[3]), C(d[4]), C(d[5]), C(d[6]), C(d[7]), C(d[8]), \
  C(d[9]), C(d[10]), C(d[11]), C(d[12]), C(d[13]), C(d[14]), C(d[15]), C(d[16]), C(d[17]), \
  C(d[18]), C(d[19]), C(d[20]), C(d[21]), C(d[22]), C(d[23]), C(d[24]), C(d[25]), C(d[26]), \
  C(d[27]), C(d[28]), C(d[29]), C(d[30]), C(d[31]), C(d[32]), C(d[33]), C(d[34]), C(d[35]), \
  C(d[36]), C(d[37]), C(d[38]), C(d[39])
#define NAMES_80 \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%" \
  "30,%31,%32,%33,%34,%35,%36,%37,%38,%39}"
#define RESULTS_96(C) \
  C(d[0]), C(d[1]), C(d[2]), C(d[3]), C(d[4]), C(d[5]), C(d[6]), C(d[7]), C(d[8]), \
  C(d[9]), C(d[10]), C(d[11]), C(d[12]), C(d[13]), C(d[14]), C(d[15]), C(d[16]), C(d[17]), \
  C(d[18]), C(d[19]), C(d[20]), C(d[21]), C(d[22]), C(d[23]), C(d[24]), C(d[25]), C(d[26]), \
  C(d[27]), C(d[28]), C(d[29]), C(d[30]), C(d[31]), C(d[32]), C(d[33]), C(d[34]), C(d[35]), \
  C(d[36]), C(d[37]), C(d[38]), C(d[39]), C(d[40]), C(d[41]), C(d[42]), C(d[43]), C(d[44]), \
  C(d[45]), C(d[46]), C(d[47])
#define NAMES_96 \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%" \
  "30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47}"
#define RESULTS_128(C) \
  C(d[0]), C(d[1]), C(d[2]), C(d[3]), C(d[4]), C(d[5]), C(d[6]), C(d[7]), C(d[8]), \
  C(d[9]), C(d[10]), C(d[11]), C(d[12]), C(d[13]), C(d[14]), C(d[15]), C(d[16]), C(d[17]), \
  C(d[18]), C(d[19]), C(d[20]), C(d[21]), C(d[22]), C(d[23]), C(d[24]), C(d[25]), C(d[26]), \
  C(d[27]), C(d[28]), C(d[29]), C(d[30]), C(d[31]), C(d[32]), C(d[33]), C(d[34]), C(d[35]), \
  C(d[36]), C(d[37]), C(d[38]), C(d[39]), C(d[40]), C(d[41]), C(d[42]), C(d[43]), C(d[44]), \
  C(d[45]), C(d[46]), C(d[47]), C(d[48]), C(d[49]), C(d[50]), C(d[51]), C(d[52]), C(d[53]), \
  C(d[54]), C(d[55]), C(d[56]), C(d[57]), C(d[58]), C(d[59]), C(d[60]), C(d[61]), C(d[62]), \
  C(d[63])
#define NAMES_128 \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%" \
  "30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%" \
  "58,%59,%60,%61,%62,%63}"
#define RESULTS_256(C) \
  C(d[0]), C(d[1]), C(d[2]), C(d[3]), C(d[4]), C(d[5]), C(d[6]), C(d[7]), C(d[8]), \
  C(d[9]), C(d[10]), C(d[11]), C(d[12]), C(d[13]), C(d[14]), C(d[15]), C(d[16]), C(d[17]), \
  C(d[18]), C(d[19]), C(d[20]), C(d[21]), C(d[22]), C(d[23]), C(d[24]), C(d[25]), C(d[26]), \
  C(d[27]), C(d[28]), C(d[29]), C(d[30]), C(d[31]), C(d[32]), C(d[33]), C(d[34]), C(d[35]), \
  C(d[36]), C(d[37]), C(d[38]), C(d[39]), C(d[40]), C(d[41]), C(d[42]), C(d[43]), C(d[44]), \
  C(d[45]), C(d[46]), C(d[47]), C(d[48]), C(d[49]), C(d[50]), C(d[51]), C(d[52]), C(d[53]), \
  C(d[54]), C(d[55]), C(d[56]), C(d[57]), C(d[58]), C(d[59]), C(d[60]), C(d[61]), C(d[62]), \
  C(d[63]), C(d[64]), C(d[65]), C(d[66]), C(d[67]), C(d[68]), C(d[69]), C(d[70]), C(d[71]), \
  C(d[72]), C(d[73]), C(d[74]), C(d[75]), C(d[76]), C(d[77]), C(d[78]), C(d[79]), C(d[80]), \
  C(d[81]), C(d[82]), C(d[83]), C(d[84]), C(d[85]), C(d[86]), C(d[87]), C(d[88]), C(d[89]), \
  C(d[90]), C(d[91]), C(d[92]), C(d[93]), C(d[94]), C(d[95]), C(d[96]), C(d[97]), C(d[98]), \
  C(d[99]), C(d[100]), C(d[101]), C(d[102]), C(d[103]), C(d[104]), C(d[105]), C(d[106]), \
  C(d[107]), C(d[108]), C(d[109]), C(d[110]), C(d[111]), C(d[112]), C(d[113]), C(d[114]), \
  C(d[115]), C(d[116]), C(d[117]), C(d[118]), C(d[119]), C(d[120]), C(d[121]), C(d[122]), \
  C(d[123]), C(d[124]), C(d[125]), C(d[126]), C(d[127])
#define NAMES_256 \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%" \
  "30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%" \
  "58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%" \
  "86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%1" \
  "11,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}"
// P0 to P5 number what comes after the N / 2 results.
#define PRODUCTS(T, N, P0, P1, P2, P3, P4, P5)                                                                               \
  template <int A_TURNED = 0, int B_TURNED = 0>                                                                              \
  static __device__ __forceinline__ void product(T, float (&d)[N / 2], uint64_t a, uint64_t b, int add) {                    \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #P2 ", 0;\n"                                                      \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #T "." #T " " NAMES_##N ", %" #P0 ", %" #P1               \
                 ", add, 1, 1, %" #P3 ", %" #P4 ";\n}"                                                                       \
                 : RESULTS_##N("+f")                                                                                         \
                 : "l"(a), "l"(b), "r"(add), "n"(A_TURNED), "n"(B_TURNED));                                                  \
  }                                                                                                                          \
  static __device__ __forceinline__ void product_new(T, float (&d)[N / 2], uint64_t a, uint64_t b) {                         \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, 0, 0;\n"                                                             \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #T "." #T " " NAMES_##N ", %" #P0 ", %" #P1               \
                 ", add, 1, 1, 0, 0;\n}"                                                                                     \
                 : RESULTS_##N("=f")                                                                                         \
                 : "l"(a), "l"(b));                                                                                          \
  }                                                                                                                          \
  static __device__ __forceinline__ void product_from(T, float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int add) {   \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #P5 ", 0;\n"                                                      \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #T "." #T " " NAMES_##N ", {%" #P0 ", %" #P1 ", %" #P2    \
                 ", %" #P3 "}, %" #P4 ", add, 1, 1, 1;\n}"                                                                   \
                 : RESULTS_##N("+f")                                                                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));                                            \
  }
#define PRODUCTS_OF(N, ...)                                                                                                  \
  template <> struct Product<N> { PRODUCTS(f16, N, __VA_ARGS__) PRODUCTS(bf16, N, __VA_ARGS__) };
PRODUCTS_OF(64, 32, 33, 34, 35, 36, 37)
PRODUCTS_OF(80, 40, 41, 42, 43, 44, 45)
PRODUCTS_OF(96, 48, 49, 50, 51, 52, 53)
PRODUCTS_OF(128, 64, 65, 66, 67, 68, 69)
PRODUCTS_OF(256, 128, 129, 130, 131, 132, 133)
#endif
