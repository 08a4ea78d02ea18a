package pocketrec.demo

import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.widget.BaseAdapter
import android.widget.Button
import android.widget.TextView
import pocketrec.Recommendation

/** The rows of the feed; the Buy button of each calls [onTap] with "buy". */
class ItemAdapter(private val onTap: (Recommendation, String) -> Unit) : BaseAdapter() {
    private var items: List<Recommendation> = emptyList()

    fun show(ranked: List<Recommendation>) {
        items = ranked
        notifyDataSetChanged()
    }

    override fun getCount(): Int = items.size

    override fun getItem(position: Int): Recommendation = items[position]

    override fun getItemId(position: Int): Long = items[position].position.toLong()

    override fun hasStableIds(): Boolean = true

    override fun getView(position: Int, reused: View?, parent: ViewGroup): View {
        val view = reused ?: LayoutInflater.from(parent.context).inflate(R.layout.item, parent, false)
        val item = items[position]
        val title = item.title.ifEmpty { item.itemId }
        view.findViewById<TextView>(R.id.title).text = title
        view.findViewById<TextView>(R.id.detail).text = item.display["categories"].orEmpty()
        view.contentDescription = parent.context.getString(R.string.view_item, title)
        val buy = view.findViewById<Button>(R.id.buy)
        buy.contentDescription = parent.context.getString(R.string.buy_item, title)
        buy.setOnClickListener { onTap(item, "buy") }
        return view
    }
}
