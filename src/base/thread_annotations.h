#pragma once

// Lock annotations that Clang's -Wthread-safety checks; empty for other compilers.

#if defined(__clang__)
#define SIGLIP_THREAD_ATTRIBUTE_(x) __attribute__((x))
#else
#define SIGLIP_THREAD_ATTRIBUTE_(x)
#endif

#define SIGLIP_GUARDED_BY(x) SIGLIP_THREAD_ATTRIBUTE_(guarded_by(x))
#define SIGLIP_REQUIRES(...) SIGLIP_THREAD_ATTRIBUTE_(requires_capability(__VA_ARGS__))
#define SIGLIP_EXCLUDES(...) SIGLIP_THREAD_ATTRIBUTE_(locks_excluded(__VA_ARGS__))
#define SIGLIP_ACQUIRE(...) SIGLIP_THREAD_ATTRIBUTE_(acquire_capability(__VA_ARGS__))
#define SIGLIP_RELEASE(...) SIGLIP_THREAD_ATTRIBUTE_(release_capability(__VA_ARGS__))
#define SIGLIP_CAPABILITY(x) SIGLIP_THREAD_ATTRIBUTE_(capability(x))
#define SIGLIP_SCOPED_CAPABILITY SIGLIP_THREAD_ATTRIBUTE_(scoped_lockable)
#define SIGLIP_NO_THREAD_SAFETY_ANALYSIS SIGLIP_THREAD_ATTRIBUTE_(no_thread_safety_analysis)
