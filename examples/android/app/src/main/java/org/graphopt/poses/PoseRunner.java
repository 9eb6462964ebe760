package org.graphopt.poses;

import java.nio.ByteBuffer;

/**
 * A bundle that is loaded and ready to run: camera frames in, people out. It serves one thread at a
 * time. Needs nothing of Android's, so that it runs in any Java.
 */
public final class PoseRunner implements AutoCloseable {
    static {
        System.loadLibrary("poses");
    }

    private long handle;

    /**
     * Loads a bundle.
     *
     * @param bundle its folder
     * @param cache a folder that can be written, where compiled OpenCL programs are kept
     * @param threads CPU threads of a cpu bundle; 0 takes every core
     * @throws IllegalArgumentException if it is no bundle, or damaged
     * @throws IllegalStateException if this device cannot run it
     */
    public PoseRunner(String bundle, String cache, int threads) {
        handle = open(bundle, cache, threads);
    }

    /** What the bundle runs on: "cpu", or the OpenCL device's name. */
    public String device() {
        return device(opened());
    }

    /**
     * Finds the people in an image of the format YUV_420_888, whose planes are direct buffers.
     *
     * @param yRow bytes from a row of y to the next
     * @param uvRow the same for u and v
     * @param uvPixel bytes from a pixel of u, and of v, to the next
     * @param turn degrees clockwise, 0, 90, 180 or 270, by which it must be turned to be upright
     * @return for each person: the score, then x, y and score of each part of the skeleton, in
     *     pixels of the upright image; three zeros for a part that was not found
     */
    public float[][] find(ByteBuffer y, int yRow, ByteBuffer u, ByteBuffer v, int uvRow, int uvPixel,
            int width, int height, int turn) {
        if (turn < 0 || turn >= 360 || turn % 90 != 0) {
            throw new IllegalArgumentException("an image cannot be turned by " + turn + " degrees");
        }
        return find(opened(), y, yRow, u, v, uvRow, uvPixel, width, height, turn / 90);
    }

    /** What a user should know of the last run; null if that is nothing. */
    public String warning() {
        return warning(opened(), 0);
    }

    @Override
    public void close() {
        if (handle != 0) {
            close(handle);
        }
        handle = 0;
    }

    private long opened() {
        if (handle == 0) {
            throw new IllegalStateException("the runner is closed");
        }
        return handle;
    }

    private static native long open(String bundle, String cache, int threads);

    private static native void close(long handle);

    private static native String device(long handle);

    private static native String warning(long handle, int number);

    private static native float[][] find(long handle, ByteBuffer y, int yRow, ByteBuffer u,
            ByteBuffer v, int uvRow, int uvPixel, int width, int height, int quarters);
}
