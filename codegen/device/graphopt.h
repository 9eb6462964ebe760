/* graphopt's device runner: a bundle that `graphopt compile` wrote, run on the device it is for.
 *
 * Photo in, people out:
 *
 *     graphopt_error error;
 *     graphopt_runner *runner;
 *     if (graphopt_open("pose.graphopt", "/cache/folder", 0, &runner, &error) != GRAPHOPT_OK)
 *         fail(error.text);
 *     graphopt_person people[8];
 *     int count;
 *     graphopt_run_rgb(runner, pixels, width, height, 3 * width, people, 8, &count, &error);
 *     graphopt_close(runner);
 *
 * Coordinates are in pixels of the frame; the centre of its first pixel is (0, 0), x to the right.
 *
 * Threads: any may use a runner, and several that do take turns: each gets its own frame's people
 * and warnings. Several runners work side by side. Nobody may use a runner while it is closed.
 *
 * Trust: a bundle holds machine code or OpenCL C. The hashes in its manifest find damage, not
 * malice; run the bundles that you would run as programs.
 */
#ifndef GRAPHOPT_H
#define GRAPHOPT_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define GRAPHOPT_API __attribute__((visibility("default")))
#else
#define GRAPHOPT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What functions return; also the exit status of graphopt-run, and of graphopt itself. */
enum {
    GRAPHOPT_OK = 0,
    GRAPHOPT_BAD_INPUT = 1,   /* a wrong argument; a bundle that is damaged or of another format */
    GRAPHOPT_UNSUPPORTED = 4, /* this device cannot run the bundle, or failed at it */
};

/* Most parts of a skeleton; a bundle with more is refused. */
#define GRAPHOPT_MAX_PARTS 64

/* Longest side of a frame in pixels. */
#define GRAPHOPT_MAX_SIDE 32768

/* What went wrong, in a sentence, UTF-8; empty after a success. */
typedef struct {
    char text[512];
} graphopt_error;

typedef struct {
    float x, y;  /* pixels of the frame */
    float score; /* 0 for a part that was not found; x and y are 0, then */
} graphopt_keypoint;

typedef struct {
    float score; /* 0..1, higher for people who are seen more completely */
    int parts;   /* the skeleton's; as many key points are filled, in its order */
    graphopt_keypoint keypoints[GRAPHOPT_MAX_PARTS];
} graphopt_person;

/* A bundle that is loaded and ready to run. */
typedef struct graphopt_runner graphopt_runner;

/* Load a bundle.
 *
 * bundle   its folder.
 * cache    a folder that can be written, where compiled OpenCL programs are kept so that later
 *          starts are quick; NULL keeps none. It is made if its parent is there.
 * threads  CPU threads of a cpu bundle; 0 takes every core that the process may use.
 * runner   set to the runner, which is the caller's to close; to NULL after an error.
 * error    set; may be NULL.
 *
 * The bundle's files are not needed any more once it is loaded. An opencl bundle runs on the first
 * GPU, or else on the first device, of the OpenCL library that the environment variable
 * GRAPHOPT_OPENCL names, or else of the system's. */
GRAPHOPT_API int graphopt_open(const char* bundle, const char* cache, int threads,
                               graphopt_runner** runner, graphopt_error* error);

/* Free a runner; NULL is fine. */
GRAPHOPT_API void graphopt_close(graphopt_runner* runner);

/* What the runner works on: "cpu", or the OpenCL device's name. The runner's. */
GRAPHOPT_API const char* graphopt_device(const graphopt_runner* runner);

/* The skeleton's name, how many parts it has, and theirs (NULL past the last). The runner's. */
GRAPHOPT_API const char* graphopt_skeleton(const graphopt_runner* runner);
GRAPHOPT_API int graphopt_part_count(const graphopt_runner* runner);
GRAPHOPT_API const char* graphopt_part_name(const graphopt_runner* runner, int part);

/* Most people that a run can find. */
GRAPHOPT_API int graphopt_max_people(const graphopt_runner* runner);

/* Find the people in an RGB frame of 8 bits a colour.
 *
 * pixels   height rows of width pixels R, G, B. Read only, and not kept.
 * stride   bytes from a row to the next, at least 3 * width.
 * people   room for `capacity` people, which the best are written to; NULL if that is 0.
 * count    set to how many were found, which may be more than `capacity`; 0 after an error. */
GRAPHOPT_API int graphopt_run_rgb(graphopt_runner* runner, const uint8_t* pixels, int width,
                                  int height, size_t stride, graphopt_person* people, int capacity,
                                  int* count, graphopt_error* error);

/* Find the people in an NV21 frame, as Android's cameras give them: luma, then V and U in turns for
 * each two by two pixels. Colours are those of JFIF: BT.601, full range.
 *
 * luma           height rows of width bytes, luma_stride apart.
 * chroma         (height + 1) / 2 rows of (width + 1) / 2 pairs V, U, chroma_stride apart. */
GRAPHOPT_API int graphopt_run_nv21(graphopt_runner* runner, const uint8_t* luma, size_t luma_stride,
                                   const uint8_t* chroma, size_t chroma_stride, int width,
                                   int height, graphopt_person* people, int capacity, int* count,
                                   graphopt_error* error);

/* What a user should know of the calling thread's last run (limits exceeded, maps that are not
 * finite): a sentence for each number from 0 on, NULL past the last. The runner's, until that
 * thread's next run. */
GRAPHOPT_API const char* graphopt_warning(const graphopt_runner* runner, int number);

/* A layer's time. */
typedef struct {
    const char* stage;  /* prepare, input, network or decode */
    const char* layer;  /* the ONNX node, or the kernel's name. The runner's. */
    const char* kernel; /* its kernel, or the first of them. The runner's. */
    int64_t macs;       /* multiply-adds */
    double ms;          /* median milliseconds of the runs, each launch waited for */
} graphopt_layer;

/* Time every layer on the frame of the last run, `runs` times over.
 *
 * layers   room for `capacity` layers; NULL if that is 0.
 * count    set to how many there are. */
GRAPHOPT_API int graphopt_profile(graphopt_runner* runner, int runs, graphopt_layer* layers,
                                  int capacity, int* count, graphopt_error* error);

#ifdef __cplusplus
}
#endif

#endif
