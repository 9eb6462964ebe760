package org.graphopt.poses;

import android.content.Context;
import android.graphics.ImageFormat;
import android.graphics.SurfaceTexture;
import android.hardware.camera2.CameraAccessException;
import android.hardware.camera2.CameraCaptureSession;
import android.hardware.camera2.CameraCharacteristics;
import android.hardware.camera2.CameraDevice;
import android.hardware.camera2.CameraManager;
import android.hardware.camera2.CaptureRequest;
import android.hardware.camera2.params.OutputConfiguration;
import android.hardware.camera2.params.SessionConfiguration;
import android.hardware.camera2.params.StreamConfigurationMap;
import android.media.Image;
import android.media.ImageReader;
import android.os.Handler;
import android.util.Size;
import android.view.Surface;

import java.util.Arrays;
import java.util.concurrent.Executor;
import java.util.function.Consumer;

/** A camera's images, for a preview and for a function that is given them. */
final class Camera implements AutoCloseable {
    /** Pixels of an image, about; networks see less. */
    private static final int PIXELS = 640 * 480;

    /** Of an image, as the sensor gives it. */
    final Size size;

    /** Degrees clockwise by which images must be turned to be upright. */
    final int turn;

    /** Whether it looks where the screen does; its preview is a mirror, its images are not. */
    final boolean front;

    private final CameraManager manager;
    private final Executor main;
    private final String name;
    private final Consumer<String> fail;
    private Surface preview;
    private ImageReader reader;
    private Handler worker;
    private CameraDevice device;
    private boolean closed;

    /**
     * Chooses a camera that looks to the front or the back, or else the first.
     *
     * @param fail told what goes wrong later
     */
    Camera(Context context, boolean front, Consumer<String> fail) throws CameraAccessException {
        main = context.getMainExecutor();
        manager = context.getSystemService(CameraManager.class);
        int wanted = front
                ? CameraCharacteristics.LENS_FACING_FRONT
                : CameraCharacteristics.LENS_FACING_BACK;
        String[] all = manager.getCameraIdList();
        if (all.length == 0) {
            throw new IllegalStateException("this device has no camera");
        }
        String chosen = all[0];
        for (String each : all) {
            if (facing(each) == wanted) {
                chosen = each;
                break;
            }
        }
        name = chosen;
        this.fail = fail;
        this.front = facing(name) == CameraCharacteristics.LENS_FACING_FRONT;
        CameraCharacteristics its = manager.getCameraCharacteristics(name);
        turn = its.get(CameraCharacteristics.SENSOR_ORIENTATION);
        StreamConfigurationMap streams =
                its.get(CameraCharacteristics.SCALER_STREAM_CONFIGURATION_MAP);
        Size best = null;
        for (Size each : streams.getOutputSizes(ImageFormat.YUV_420_888)) {
            if (best == null || distance(each) < distance(best)) {
                best = each;
            }
        }
        size = best;
    }

    private int facing(String camera) throws CameraAccessException {
        return manager.getCameraCharacteristics(camera).get(CameraCharacteristics.LENS_FACING);
    }

    private static int distance(Size size) {
        return Math.abs(size.getWidth() * size.getHeight() - PIXELS);
    }

    /**
     * Starts the camera; the permission must have been given.
     *
     * @param texture shows the preview
     * @param work given images on the thread of `worker`, the latest when it is ready for one
     */
    void start(SurfaceTexture texture, Handler worker, Consumer<Image> work)
            throws CameraAccessException {
        this.worker = worker;
        texture.setDefaultBufferSize(size.getWidth(), size.getHeight());
        preview = new Surface(texture);
        reader = ImageReader.newInstance(
                size.getWidth(), size.getHeight(), ImageFormat.YUV_420_888, 2);
        reader.setOnImageAvailableListener(source -> {
            try (Image image = source.acquireLatestImage()) {
                if (image != null) {
                    work.accept(image);
                }
            }
        }, worker);
        try {
            manager.openCamera(name, main, new Opened());
        } catch (SecurityException refused) {
            fail.accept("there is no permission to use the camera");
        }
    }

    /** What happens to the camera, told on the main thread. */
    private final class Opened extends CameraDevice.StateCallback {
        @Override
        public void onOpened(CameraDevice opened) {
            device = opened;
            if (closed) {
                opened.close();
                return;
            }
            try {
                CaptureRequest.Builder request =
                        opened.createCaptureRequest(CameraDevice.TEMPLATE_PREVIEW);
                request.addTarget(preview);
                request.addTarget(reader.getSurface());
                opened.createCaptureSession(new SessionConfiguration(
                        SessionConfiguration.SESSION_REGULAR,
                        Arrays.asList(new OutputConfiguration(preview),
                                new OutputConfiguration(reader.getSurface())),
                        main, new Configured(request.build())));
            } catch (CameraAccessException | IllegalStateException wrong) {
                fail.accept("cannot use the camera: " + wrong.getMessage());
            }
        }

        @Override
        public void onDisconnected(CameraDevice lost) {
            lost.close();
            fail.accept("another app took the camera");
        }

        @Override
        public void onError(CameraDevice broken, int error) {
            broken.close();
            fail.accept("the camera failed: error " + error);
        }
    }

    private final class Configured extends CameraCaptureSession.StateCallback {
        private final CaptureRequest request;

        Configured(CaptureRequest request) {
            this.request = request;
        }

        @Override
        public void onConfigured(CameraCaptureSession session) {
            try {
                if (!closed) {
                    session.setRepeatingRequest(request, null, null);
                }
            } catch (CameraAccessException | IllegalStateException wrong) {
                fail.accept("cannot use the camera: " + wrong.getMessage());
            }
        }

        @Override
        public void onConfigureFailed(CameraCaptureSession session) {
            fail.accept("the camera does not take images of " + size);
        }
    }

    /** Stops the camera; images that are being worked on stay whole. */
    @Override
    public void close() {
        closed = true;
        if (device != null) {
            device.close();
        }
        if (reader != null) {
            // On the thread that uses its images.
            worker.post(reader::close);
            preview.release();
        }
    }
}
