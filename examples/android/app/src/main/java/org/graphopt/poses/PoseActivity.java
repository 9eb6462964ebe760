package org.graphopt.poses;

import android.Manifest;
import android.app.Activity;
import android.content.pm.PackageManager;
import android.graphics.Matrix;
import android.graphics.SurfaceTexture;
import android.hardware.camera2.CameraAccessException;
import android.media.Image;
import android.os.Bundle;
import android.os.Handler;
import android.os.HandlerThread;
import android.view.TextureView;
import android.view.WindowManager;
import android.widget.FrameLayout;

import java.io.File;
import java.io.IOException;

import org.json.JSONException;

/** The camera's picture and the people in it; a tap takes the other camera. */
public final class PoseActivity extends Activity implements TextureView.SurfaceTextureListener {
    private TextureView picture;
    private PoseView overlay;
    private HandlerThread thread;
    private Handler worker;
    private Camera camera;
    private boolean front;
    private boolean resumed;

    // Of the worker's thread.
    private PoseRunner runner;
    private Skeleton skeleton;

    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        picture = new TextureView(this);
        picture.setSurfaceTextureListener(this);
        overlay = new PoseView(this);
        overlay.setOnClickListener(view -> {
            front = !front;
            stopCamera();
            startCamera();
        });
        FrameLayout layers = new FrameLayout(this);
        layers.addView(picture);
        layers.addView(overlay);
        setContentView(layers);
        getWindow().addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON);

        thread = new HandlerThread("poses");
        thread.start();
        worker = new Handler(thread.getLooper());
        overlay.tell("loading; the first start compiles kernels and takes longer");
        worker.post(this::load);
        if (!permitted()) {
            requestPermissions(new String[] {Manifest.permission.CAMERA}, 0);
        }
    }

    private void load() {
        File folder = new File(getFilesDir(), "bundle");
        // Half of the cores: the others of a phone are slow ones, and a layer waits for its last.
        int threads = Math.max(1, Runtime.getRuntime().availableProcessors() / 2);
        try {
            BundleFiles.copy(getAssets(), folder);
            skeleton = new Skeleton(new String(BundleFiles.read(getAssets(), "pose.json"), "UTF-8"));
            runner = new PoseRunner(folder.getPath(), getCacheDir().getPath(), threads);
        } catch (IOException | JSONException | RuntimeException | UnsatisfiedLinkError wrong) {
            tell("cannot load the bundle: " + wrong.getMessage());
        }
    }

    /** Runs on the worker's thread. */
    private void find(Image image, int turn, boolean mirrored) {
        if (runner == null) {
            return; // load() has said why
        }
        Image.Plane[] planes = image.getPlanes();
        boolean lies = turn % 180 != 0;
        int width = lies ? image.getHeight() : image.getWidth();
        int height = lies ? image.getWidth() : image.getHeight();
        try {
            long start = System.nanoTime();
            float[][] people = runner.find(
                    planes[0].getBuffer(), planes[0].getRowStride(),
                    planes[1].getBuffer(), planes[2].getBuffer(),
                    planes[1].getRowStride(), planes[1].getPixelStride(),
                    image.getWidth(), image.getHeight(), turn);
            long milliseconds = (System.nanoTime() - start) / 1000000;
            String warning = runner.warning();
            String line = runner.device() + ": " + people.length + " people, " + milliseconds + " ms"
                    + (warning == null ? "" : "; " + warning);
            runOnUiThread(() -> overlay.show(skeleton, people, width, height, mirrored, line));
        } catch (RuntimeException wrong) {
            tell(wrong.getMessage());
        }
    }

    private void tell(String line) {
        runOnUiThread(() -> overlay.tell(line));
    }

    private boolean permitted() {
        return checkSelfPermission(Manifest.permission.CAMERA) == PackageManager.PERMISSION_GRANTED;
    }

    private void startCamera() {
        if (!resumed || camera != null || !picture.isAvailable() || !permitted()) {
            return;
        }
        try {
            Camera chosen = new Camera(this, front, this::tell);
            camera = chosen;
            place();
            camera.start(picture.getSurfaceTexture(), worker,
                    image -> find(image, chosen.turn, chosen.front));
        } catch (CameraAccessException | RuntimeException wrong) {
            tell("cannot use the camera: " + wrong.getMessage());
        }
    }

    /** A TextureView turns and mirrors the picture, and stretches it to its own size; not so. */
    private void place() {
        boolean lies = camera.turn % 180 != 0;
        int width = lies ? camera.size.getHeight() : camera.size.getWidth();
        int height = lies ? camera.size.getWidth() : camera.size.getHeight();
        Matrix matrix = PoseView.fit(width, height, picture, false);
        matrix.preScale((float) width / picture.getWidth(), (float) height / picture.getHeight());
        picture.setTransform(matrix);
    }

    private void stopCamera() {
        if (camera != null) {
            camera.close();
        }
        camera = null;
    }

    @Override
    protected void onResume() {
        super.onResume();
        resumed = true;
        startCamera();
    }

    @Override
    protected void onPause() {
        resumed = false;
        stopCamera();
        super.onPause();
    }

    @Override
    protected void onDestroy() {
        worker.post(() -> {
            if (runner != null) {
                runner.close();
            }
            runner = null;
        });
        thread.quitSafely();
        super.onDestroy();
    }

    @Override
    public void onRequestPermissionsResult(int request, String[] permissions, int[] results) {
        if (permitted()) {
            startCamera();
        } else {
            tell("without the camera there is nothing to see: allow it in the system's settings");
        }
    }

    @Override
    public void onSurfaceTextureAvailable(SurfaceTexture texture, int width, int height) {
        startCamera();
    }

    @Override
    public void onSurfaceTextureSizeChanged(SurfaceTexture texture, int width, int height) {
        if (camera != null) {
            place();
        }
    }

    @Override
    public boolean onSurfaceTextureDestroyed(SurfaceTexture texture) {
        stopCamera();
        return true;
    }

    @Override
    public void onSurfaceTextureUpdated(SurfaceTexture texture) {}
}
