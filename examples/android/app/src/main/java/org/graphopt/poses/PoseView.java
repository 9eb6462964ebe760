package org.graphopt.poses;

import android.content.Context;
import android.graphics.Canvas;
import android.graphics.Color;
import android.graphics.Matrix;
import android.graphics.Paint;
import android.view.View;

/** People, drawn over the camera's picture, and a line of text. */
final class PoseView extends View {
    private final Paint stroke = new Paint(Paint.ANTI_ALIAS_FLAG);
    private final Paint letters = new Paint(Paint.ANTI_ALIAS_FLAG);
    private Skeleton skeleton;
    private float[][] people = {};
    private Matrix placing = new Matrix();
    private String text = "";

    PoseView(Context context) {
        super(context);
        float unit = context.getResources().getDisplayMetrics().density;
        stroke.setStrokeCap(Paint.Cap.ROUND);
        stroke.setStrokeWidth(4 * unit);
        letters.setColor(Color.WHITE);
        letters.setShadowLayer(2 * unit, 0, 0, Color.BLACK);
        letters.setTextSize(14 * unit);
    }

    /** Where an upright image is in a view that shows all of it: its pixels to the view's. */
    static Matrix fit(int width, int height, View view, boolean mirrored) {
        float scale = Math.min((float) view.getWidth() / width, (float) view.getHeight() / height);
        Matrix matrix = new Matrix();
        matrix.postTranslate(-width / 2f, -height / 2f);
        matrix.postScale(mirrored ? -scale : scale, scale);
        matrix.postTranslate(view.getWidth() / 2f, view.getHeight() / 2f);
        return matrix;
    }

    /** Draws people, as PoseRunner finds them in an image of this size. */
    void show(Skeleton bones, float[][] found, int width, int height, boolean mirrored, String line) {
        skeleton = bones;
        people = found;
        placing = fit(width, height, this, mirrored);
        // The runner's coordinates have the centre of the first pixel at 0, 0.
        placing.preTranslate(0.5f, 0.5f);
        tell(line);
    }

    /** Shows a line of text. */
    void tell(String line) {
        text = line;
        invalidate();
    }

    @Override
    protected void onDraw(Canvas canvas) {
        float[] ends = new float[4];
        for (float[] person : people) {
            for (int[] limb : skeleton.limbs) {
                int a = 1 + 3 * limb[0];
                int b = 1 + 3 * limb[1];
                if (person[a + 2] > 0 && person[b + 2] > 0) {
                    System.arraycopy(person, a, ends, 0, 2);
                    System.arraycopy(person, b, ends, 2, 2);
                    placing.mapPoints(ends);
                    stroke.setColor(skeleton.colors[limb[1]]);
                    canvas.drawLine(ends[0], ends[1], ends[2], ends[3], stroke);
                }
            }
        }
        float line = letters.getTextSize();
        canvas.drawText(text, line, getHeight() - 2 * line, letters);
    }
}
